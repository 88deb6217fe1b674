package cloudtest

import "github.com/aws/aws-sdk-go-v2/service/ebs"

// EBS is the client of the EBS direct API.
func (c *Cloud) EBS() *ebs.Client { return ebs.NewFromConfig(c.config) }
