package billing

import (
	"context"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) getPrices(_ context.Context, call *awsapi.Call, req *nacre.GetPricesRequest) (*nacre.GetPricesResult, error) {
	at := call.Now
	if req.Day != nil {
		var err error
		if at, err = day(*req.Day); err != nil {
			return nil, err
		}
	}
	book := store.PriceBook(s.store.View())
	res := &nacre.GetPricesResult{PriceList: shapeOfPrices(book.At(at))}
	for _, l := range book {
		res.Effective = append(res.Effective, l.Effective.Format(time.DateOnly))
	}
	return res, nil
}

// putPrices sets the prices from a day on. Those of months that are over stay: their bills are made.
func (s *Service) putPrices(ctx context.Context, call *awsapi.Call, req *nacre.PutPricesRequest) (*nacre.PutPricesResult, error) {
	list, err := parsePrices(req.PriceList)
	if err != nil {
		return nil, err
	}
	month := time.Date(call.Now.Year(), call.Now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if list.Effective.Before(month) {
		return nil, awsapi.Errorf("ConflictException", "The prices of %s can't be set: the bills of the months before %s are made. Choose a day from then on.",
			list.Effective.Format(time.DateOnly), month.Format(time.DateOnly))
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		if !operator(tx, call.Account) {
			return awsapi.Errorf("AccessDeniedException", "The prices are the operator's to set, with the root account of the region.")
		}
		store.Put(tx, store.PriceLists, list)
		return nil
	})
	if err != nil {
		return nil, contended(err)
	}
	return &nacre.PutPricesResult{}, nil
}

func parsePrices(p *nacre.PriceList) (*cloud.PriceList, error) {
	effective, err := day(*p.Effective)
	if err != nil {
		return nil, err
	}
	read := func(what, text string) (price cloud.Price) {
		if err == nil {
			if price, err = cloud.ParsePrice(text); err != nil {
				err = invalid("%s: %v", what, err)
			}
		}
		return price
	}
	l := &cloud.PriceList{Effective: effective, Source: deref(p.Source), Instances: map[cloud.InstanceType]cloud.Price{}, Containers: map[cloud.InstanceType]cloud.Price{},
		Volumes: map[string]cloud.Price{}, IOPS: map[string]cloud.Price{}, Throughput: map[string]cloud.Price{}, PublicIPv4: read("PublicIPv4Hour", *p.PublicIPv4Hour), NATGateway: read("NATGatewayHour", *p.NATGatewayHour),
		Snapshots: read("SnapshotGBMonth", *p.SnapshotGBMonth)}
	for name, text := range p.InstanceHours {
		l.Instances[cloud.InstanceType(name)] = read("InstanceHours."+name, text)
	}
	for name, text := range p.ContainerHours {
		l.Containers[cloud.InstanceType(name)] = read("ContainerHours."+name, text)
	}
	for name, text := range p.VolumeGBMonths {
		l.Volumes[name] = read("VolumeGBMonths."+name, text)
	}
	for name, text := range p.VolumeIOPSMonths {
		l.IOPS[name] = read("VolumeIOPSMonths."+name, text)
	}
	for name, text := range p.VolumeMiBpsMonths {
		l.Throughput[name] = read("VolumeMiBpsMonths."+name, text)
	}
	if err != nil {
		return nil, err
	}
	if err := l.Check(); err != nil {
		return nil, invalid("%v; `nacre prices show` prints a whole list to begin from.", err)
	}
	return l, nil
}

func shapeOfPrices(l *cloud.PriceList) *nacre.PriceList {
	p := &nacre.PriceList{Effective: new(l.Effective.Format(time.DateOnly)), Source: &l.Source, InstanceHours: map[string]string{}, ContainerHours: map[string]string{},
		VolumeGBMonths: map[string]string{}, VolumeIOPSMonths: map[string]string{}, VolumeMiBpsMonths: map[string]string{}, PublicIPv4Hour: new(l.PublicIPv4.String()), NATGatewayHour: new(l.NATGateway.String()), SnapshotGBMonth: new(l.Snapshots.String())}
	for name, price := range l.Instances {
		p.InstanceHours[string(name)] = price.String()
	}
	for name, price := range l.Containers {
		p.ContainerHours[string(name)] = price.String()
	}
	for name, price := range l.Volumes {
		p.VolumeGBMonths[name] = price.String()
	}
	for name, price := range l.IOPS {
		p.VolumeIOPSMonths[name] = price.String()
	}
	for name, price := range l.Throughput {
		p.VolumeMiBpsMonths[name] = price.String()
	}
	return p
}
