package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// The actions on prices.
var (
	ActionGetPrices = awsapi.Define[GetPricesRequest, GetPricesResult](Service, "GetPrices")
	ActionPutPrices = awsapi.Define[PutPricesRequest, PutPricesResult](Service, "PutPrices")
)

// PriceList is what everything costs from a day on, in US dollars with at most twelve decimals. It is also the form of the file that an operator edits.
type PriceList struct {
	Effective      *string           `json:"Effective" required:"true" min:"10" max:"10"` // such as 2026-01-01, UTC
	Source         *string           `json:"Source" max:"1000"`                           // where the prices come from
	InstanceHours  map[string]string `json:"InstanceHours" required:"true" max:"1000"`    // of virtual machines, by type
	ContainerHours map[string]string `json:"ContainerHours" required:"true" max:"1000"`   // of containers, by type
	PublicIPv4Hour *string           `json:"PublicIPv4Hour" required:"true"`
	NATGatewayHour *string           `json:"NATGatewayHour" required:"true"`
	VolumeGBMonths map[string]string `json:"VolumeGBMonths" required:"true" max:"100"` // by type of volume; a month has 30 days
	// VolumeIOPSMonths are the prices of an operation a second, by tier, and VolumeMiBpsMonths those of a MiB a second, beyond what comes with a volume.
	VolumeIOPSMonths  map[string]string `json:"VolumeIOPSMonths" required:"true" max:"100"`
	VolumeMiBpsMonths map[string]string `json:"VolumeMiBpsMonths" required:"true" max:"100"`
	SnapshotGBMonth   *string           `json:"SnapshotGBMonth" required:"true"`
}

// GetPricesRequest asks for the prices of a day.
type GetPricesRequest struct {
	Day *string `json:"Day" min:"10" max:"10"` // such as 2026-01-01, UTC; today when it isn't given
}

// GetPricesResult is the list that holds on the day.
type GetPricesResult struct {
	PriceList *PriceList `json:"PriceList"`
	Effective []string   `json:"Effective"` // the first days of all lists, the oldest first
}

// PutPricesRequest sets what everything costs from the list's day on.
type PutPricesRequest struct {
	PriceList *PriceList `json:"PriceList" required:"true"`
}

// PutPricesResult is empty.
type PutPricesResult struct{}

// GetPrices tells the prices of a day.
func (c Client) GetPrices(ctx context.Context, in *GetPricesRequest) (*GetPricesResult, error) {
	return awsapi.Invoke(ctx, c.Client, ActionGetPrices, in)
}

// PutPrices sets prices. It is the operator's.
func (c Client) PutPrices(ctx context.Context, in *PutPricesRequest) (*PutPricesResult, error) {
	return awsapi.Invoke(ctx, c.Client, ActionPutPrices, in)
}
