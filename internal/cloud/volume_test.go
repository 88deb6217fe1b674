package cloud

import (
	"errors"
	"testing"
)

func TestVolumesHaveTheSizesAndRatesOfTheirType(t *testing.T) {
	for _, c := range []struct {
		in      VolumeShape
		refused string // the parameter
		iops    int64  // that EC2 shows
		rate    int64  // MiB a second
	}{
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 1}, iops: 3000, rate: 125},
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 100, IOPS: 16000, Throughput: 1000}, iops: 16000, rate: 1000},
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 10, IOPS: 6000}, refused: "iops"},
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 100, Throughput: 1000}, refused: "throughput"},
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 100, Throughput: 100}, refused: "throughput"},
		{in: VolumeShape{Type: VolumeGP3, SizeGiB: 16385}, refused: "size"},
		{in: VolumeShape{Type: VolumeGP2, SizeGiB: 1}, iops: 100, rate: 128},
		{in: VolumeShape{Type: VolumeGP2, SizeGiB: 200}, iops: 600, rate: 250},
		{in: VolumeShape{Type: VolumeGP2, SizeGiB: 10000}, iops: 16000, rate: 250},
		{in: VolumeShape{Type: VolumeGP2, SizeGiB: 10, IOPS: 100}, refused: "iops"},
		{in: VolumeShape{Type: VolumeIO1, SizeGiB: 4}, refused: "iops"},
		{in: VolumeShape{Type: VolumeIO1, SizeGiB: 4, IOPS: 201}, refused: "iops"},
		{in: VolumeShape{Type: VolumeIO1, SizeGiB: 4, IOPS: 200}, iops: 200, rate: 50},
		{in: VolumeShape{Type: VolumeIO2, SizeGiB: 400, IOPS: 256000}, iops: 256000, rate: 4000},
		{in: VolumeShape{Type: VolumeST1, SizeGiB: 100}, refused: "size"},
		{in: VolumeShape{Type: VolumeST1, SizeGiB: 1024}, rate: 40},
		{in: VolumeShape{Type: VolumeSC1, SizeGiB: 1024}, rate: 12},
		{in: VolumeShape{Type: VolumeStandard, SizeGiB: 10}, rate: 90},
		{in: VolumeShape{Type: VolumeStandard, SizeGiB: 10, Throughput: 125}, refused: "throughput"},
		{in: VolumeShape{Type: "gp4", SizeGiB: 10}, refused: "volumeType"},
	} {
		got, err := c.in.Settle()
		var shape *ShapeError
		if c.refused != "" {
			if !errors.As(err, &shape) || shape.Parameter != c.refused {
				t.Errorf("%+v: %v, and %s should be refused", c.in, err, c.refused)
			}
			continue
		}
		if err != nil || got.Baseline() != c.iops || got.Limits().Bytes != c.rate<<20 {
			t.Errorf("%+v: %v, %d operations, %d bytes a second", c.in, err, got.Baseline(), got.Limits().Bytes)
		}
		if l := got.Limits(); l.IOPS <= 0 || l.Unit <= 0 || l.BurstIOPS != 0 && l.BurstIOPS < l.IOPS || l.BurstBytes != 0 && l.BurstBytes < l.Bytes {
			t.Errorf("%+v: its limits are %+v", c.in, l)
		}
	}
}
