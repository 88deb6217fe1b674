package ec2

import (
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// ownInterface finds an interface that an account may change: its own, and no other resource's.
func ownInterface(r store.Reader, account cloud.AccountID, id string) (*cloud.Interface, error) {
	n, err := lookup(r, store.Interfaces, ownerOfInterface, kindInterface, account, id)
	if err != nil {
		return nil, err
	}
	if n.RequesterManaged {
		return nil, awsapi.Errorf("OperationNotPermitted", "The network interface '%s' is managed by another resource: %s.", n.ID, n.Description)
	}
	return n, nil
}
