package cloud

// listPrices are AWS's public list prices of a unit of each family: on demand, Linux, us-east-1, in millionths of a
// US dollar an hour. Burstable families are priced by the GiB of memory, the others by the vCPU.
var listPrices = map[string]int64{"t3": 10_400, "t4g": 8_400, "m5": 48_000, "c5": 42_500, "r5": 63_000}

// ListPrice is AWS's public price of the size, in millionths of a US dollar an hour; 0 when it isn't known. It is
// what sizes are compared by, not what anybody is billed.
func (t InstanceTypeInfo) ListPrice() int64 {
	unit := listPrices[t.Name.Family()]
	if t.Burstable() {
		return unit * t.MemoryMiB / 1024
	}
	return unit * int64(t.VCPUs)
}
