package cloud

import "regexp"

var imageName = regexp.MustCompile(`^[A-Za-z0-9()\[\] ./\-'@_:]{3,128}$`)

// ValidImageName tells whether EC2 allows an AMI to be called so.
func ValidImageName(name string) bool { return imageName.MatchString(name) }
