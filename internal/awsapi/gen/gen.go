// Package gen is the parent of the generated packages, one a service, and says how to make them.
// It holds no code.
package gen

//go:generate go run ../modelgen -service ec2 -version 2016-11-15 -out ec2
//go:generate go run ../modelgen -service sts -version 2011-06-15 -out sts
