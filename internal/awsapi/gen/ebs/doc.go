// Package ebs is the EBS direct API as its API model has it: shapes, actions and a client. All but this file is generated; actions.txt
// lists the actions whose shapes are.
package ebs
