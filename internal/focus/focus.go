// Package focus knows the form of FOCUS 1.2, the FinOps Open Cost and Usage Specification: its columns, as far as this cloud has what they are for, and how
// rows of them are written as CSV and as Parquet. It promises that both say the same, to the last decimal; it never works out a cost.
package focus

// Version is the specification's.
const Version = "1.2"

// Kind is the type of a column's values.
type Kind int

const (
	Text    Kind = iota
	Decimal      // with at most 20 decimals and 18 digits before them
	Time         // UTC, such as 2026-11-01T00:00:00Z
	JSON         // an object of keys and values
)

// Column is one of the specification's.
type Column struct {
	Name     string
	Kind     Kind
	Nullable bool
}

// Row has the values of columns by name; a column that is not in it is null.
type Row map[string]string

// Columns are those of every dataset. What the specification asks for only where a provider has it is left out where this cloud doesn't: commitments,
// reserved capacity, several sorts of accounts, virtual currencies.
var Columns = []Column{
	{"AvailabilityZone", Text, true},
	{"BilledCost", Decimal, false},
	{"BillingAccountId", Text, false},
	{"BillingAccountName", Text, true},
	{"BillingCurrency", Text, false},
	{"BillingPeriodEnd", Time, false},
	{"BillingPeriodStart", Time, false},
	{"ChargeCategory", Text, false},
	{"ChargeClass", Text, true},
	{"ChargeDescription", Text, true},
	{"ChargeFrequency", Text, false},
	{"ChargePeriodEnd", Time, false},
	{"ChargePeriodStart", Time, false},
	{"ConsumedQuantity", Decimal, true},
	{"ConsumedUnit", Text, true},
	{"ContractedCost", Decimal, false},
	{"ContractedUnitPrice", Decimal, true},
	{"EffectiveCost", Decimal, false},
	{"InvoiceId", Text, true},
	{"InvoiceIssuerName", Text, false},
	{"ListCost", Decimal, false},
	{"ListUnitPrice", Decimal, true},
	{"PricingCategory", Text, true},
	{"PricingQuantity", Decimal, true},
	{"PricingUnit", Text, true},
	{"ProviderName", Text, false},
	{"PublisherName", Text, false},
	{"RegionId", Text, true},
	{"RegionName", Text, true},
	{"ResourceId", Text, true},
	{"ResourceName", Text, true},
	{"ResourceType", Text, true},
	{"ServiceCategory", Text, false},
	{"ServiceName", Text, false},
	{"ServiceSubcategory", Text, false},
	{"SkuId", Text, true},
	{"SkuMeter", Text, true},
	{"SkuPriceDetails", JSON, true},
	{"SkuPriceId", Text, true},
	{"SubAccountId", Text, true},
	{"SubAccountName", Text, true},
	{"Tags", JSON, true},
}

// Writer takes rows, and is done with Close.
type Writer interface {
	Write(Row) error
	Close() error
}
