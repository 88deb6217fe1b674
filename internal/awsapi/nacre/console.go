package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// ActionGetConsoleHostKeys tells by which keys SSH clients know the endpoint's consoles.
var ActionGetConsoleHostKeys = awsapi.Define[GetConsoleHostKeysRequest, GetConsoleHostKeysResponse](Service, "GetConsoleHostKeys")

// GetConsoleHostKeysRequest asks for them.
type GetConsoleHostKeysRequest struct{}

// GetConsoleHostKeysResponse has them in authorized_keys form: one at least.
type GetConsoleHostKeysResponse struct {
	HostKeys []string `json:"HostKeys"`
}

// GetConsoleHostKeys calls the action of that name.
func (c Client) GetConsoleHostKeys(ctx context.Context, in *GetConsoleHostKeysRequest) (*GetConsoleHostKeysResponse, error) {
	return awsapi.Invoke(ctx, c.Client, ActionGetConsoleHostKeys, in)
}
