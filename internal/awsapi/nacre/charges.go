package nacre

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// ActionListCharges tells a month's costs row by row.
var ActionListCharges = awsapi.Define[ListChargesRequest, ListChargesResult](Service, "ListCharges")

// ListChargesRequest asks for the charges of a month, a page at a time.
type ListChargesRequest struct {
	Month      *string `json:"Month" required:"true" min:"7" max:"7"` // such as 2026-11, UTC
	AsOf       *string `json:"AsOf" max:"40"`                         // what was used later is left out: with the answer's, all pages are of one instant; absent for now
	MaxResults *int64  `json:"MaxResults" min:"1" max:"10000"`        // rows; 1000 when it isn't given
	NextToken  *string `json:"NextToken"`
}

// ListChargesResult is a page of charges: one a resource, price, set of tags and day.
type ListChargesResult struct {
	FocusVersion *string             `json:"FocusVersion"` // of the FinOps Open Cost and Usage Specification whose columns the rows have
	AsOf         *string             `json:"AsOf"`
	Rows         []map[string]string `json:"Rows"` // values by the columns' ids; a column that is missing is null
	NextToken    *string             `json:"NextToken"`
}

// ListCharges tells a page of a month's charges. The operator's account is told those of all accounts, every other its own.
func (c Client) ListCharges(ctx context.Context, in *ListChargesRequest) (*ListChargesResult, error) {
	return awsapi.Invoke(ctx, c.Client, ActionListCharges, in)
}
