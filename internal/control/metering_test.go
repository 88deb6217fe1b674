package control

import (
	"math/big"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// stretch is a time that an instance is known to have run for, by a book that the test keeps beside the ledger.
type stretch struct {
	account  cloud.AccountID
	size     cloud.InstanceType
	from, to time.Time
}

// life is one instance's month, as its owner, its node and chance have it.
type life struct {
	w       *world
	r       *rand.Rand
	id      cloud.InstanceID
	account cloud.AccountID
	size    cloud.InstanceType
	now     time.Time
	skew    time.Duration // of the node's clock
	end     time.Time     // of the month
	ran     []stretch
}

func (l *life) pass(most time.Duration) { l.now = l.now.Add(time.Duration(l.r.Int63n(int64(most)))) }

// call does what a call of the API does to the instance.
func (l *life) call(change func(i *cloud.Instance) error) {
	err := l.w.store.Update(l.w.t.Context(), func(tx *store.Tx) error {
		tx.At(l.now)
		i, ok := store.Get(tx, store.Instances, l.id)
		if !ok {
			i = &cloud.Instance{ID: l.id, Account: l.account, Type: l.size, Isolation: cloud.IsolationVM, Node: l.w.node.ID, State: cloud.StatePending, Desired: cloud.DesiredRunning, Boot: 1}
		}
		if err := change(i); err != nil {
			return err
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	if err != nil {
		l.w.t.Fatal(err)
	}
}

// tell is a fact of the node's, which comes twice now and then: the manager was killed before it was acknowledged.
func (l *life) tell(phase agentrpc.Phase, at time.Time) {
	for range 1 + l.r.Intn(2) {
		st := agentrpc.MachineStatus{Instance: l.id, Boot: l.w.instance(l.id).Boot, Phase: phase, At: at.Add(l.skew)}
		if err := applyStatus(l.w.t.Context(), l.w.store, l.w.node.ID, st, l.now); err != nil {
			l.w.t.Fatal(err)
		}
	}
}

// runs begins a stretch.
func (l *life) runs() { l.ran = append(l.ran, stretch{l.account, l.size, l.now, time.Time{}}) }

// ended ends it: at a time of the node's clock, as far as that can be.
func (l *life) ended(at time.Time) {
	s := &l.ran[len(l.ran)-1]
	if at.After(l.now) {
		at = l.now
	}
	if at.Before(s.from) {
		at = s.from
	}
	if s.to.IsZero() || at.Before(s.to) {
		s.to = at
	}
}

func (l *life) live() {
	sizes := []cloud.InstanceType{"t3.micro", "t3.large", "c5.large", "m5.xlarge", "r5.large"}
	l.size = sizes[l.r.Intn(len(sizes))]
	l.pass(20 * 24 * time.Hour)
	l.call(func(*cloud.Instance) error { return nil })
	for l.now.Before(l.end) {
		l.pass(20 * time.Second)
		l.tell(agentrpc.PhaseRunning, l.now)
		l.runs()
		for l.r.Intn(3) == 0 { // another size, or other tags, while it runs
			l.pass(2 * time.Hour)
			if size := sizes[l.r.Intn(len(sizes))]; size != l.size {
				l.call(func(i *cloud.Instance) error { i.Type = size; return nil })
				l.ended(l.now)
				l.size = size
				l.runs()
			}
			l.call(func(i *cloud.Instance) error {
				i.Tags = cloud.Tags{"team": []string{"red", "blue"}[l.r.Intn(2)]}
				return nil
			})
		}
		l.pass(10 * time.Hour >> l.r.Intn(14))
		switch l.r.Intn(4) {
		case 0: // it ends by itself, and its node tells so: at once, or when it is back
			died := l.now
			l.pass(time.Second + 8*time.Hour*time.Duration(l.r.Intn(2)))
			l.tell(agentrpc.PhaseExited, died)
			l.ended(died.Add(l.skew))
			l.pass(time.Minute)
			l.tell(agentrpc.PhaseStopped, died)
		case 1: // it died unseen, and its owner stops it before anybody knows
			died := l.now
			l.pass(3 * time.Hour)
			l.stop()
			l.pass(time.Hour)
			l.tell(agentrpc.PhaseStopped, died)
			l.ended(died.Add(l.skew))
		default:
			l.stop()
			l.pass(time.Minute)
			l.tell(agentrpc.PhaseStopped, l.now.Add(time.Minute)) // whatever its clock says, it ran till the call
		}
		l.pass(30 * time.Hour)
		if l.r.Intn(5) == 0 {
			l.call(func(i *cloud.Instance) error {
				i.Desired = cloud.DesiredTerminated
				return i.Transition(cloud.StateShuttingDown, cloud.ReasonUserTerminate, l.now)
			})
			l.tell(agentrpc.PhaseGone, l.now)
			return
		}
		l.call(func(i *cloud.Instance) error {
			i.Desired, i.Boot = cloud.DesiredRunning, i.Boot+1
			return i.Transition(cloud.StatePending, cloud.StateReason{}, l.now)
		})
	}
}

func (l *life) stop() {
	l.call(func(i *cloud.Instance) error {
		i.Desired = cloud.DesiredStopped
		return i.Transition(cloud.StateStopping, cloud.ReasonUserStop, l.now)
	})
	l.ended(l.now)
}

// bruteForce counts a month second by second: each one costs what its type costs when it begins, the first 60 of a stretch what
// it costs when that begins, and they are paid in any case.
func bruteForce(ran []stretch, book cloud.PriceBook, from, to time.Time) *big.Rat {
	counts := map[cloud.Price]int64{}
	for _, s := range ran {
		if !s.to.IsZero() && !s.from.Before(s.to) {
			continue
		}
		end := s.to
		if end.IsZero() {
			end = to
		}
		charge := cloud.Charge{Kind: cloud.UsageInstance, Type: string(s.size), Isolation: cloud.IsolationVM}
		n := int64(0)
		for at := s.from; n < 60 || at.Before(end); at, n = at.Add(time.Second), n+1 {
			due := at
			if n < 60 {
				due = s.from
			}
			if due.Before(from) || !due.Before(to) {
				continue
			}
			counts[book.At(due).Price(charge)]++
		}
	}
	sum := new(big.Rat)
	for price, seconds := range counts {
		sum.Add(sum, new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(int64(price)), big.NewInt(seconds)), big.NewInt(3600*1_000_000)))
	}
	return sum
}

func TestAMonthOfAThousandInstancesIsBilledToTheMicroDollar(t *testing.T) {
	w := newWorld(t)
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	end := begin.AddDate(0, 1, 0)
	dearer := cloud.DefaultPrices()
	dearer.Effective, dearer.Instances["t3.large"] = begin.AddDate(0, 0, 14), 91_234_567_891
	book := cloud.NewPriceBook([]*cloud.PriceList{dearer})
	accounts := []cloud.AccountID{"111111111111", "222222222222", "333333333333"}
	var ran []stretch
	for n := range 1000 {
		r := rand.New(rand.NewSource(int64(n)))
		l := life{w: w, r: r, id: cloud.NewID[cloud.InstanceID](w.rand), account: accounts[n%3], now: begin.Add(-5 * 24 * time.Hour), end: end,
			skew: time.Duration(r.Int63n(int64(20*time.Second))) - 10*time.Second}
		l.live()
		ran = append(ran, l.ran...)
	}
	ledger := store.List(w.store.View(), store.Usages)
	now := end.AddDate(0, 1, 0)
	check := func(what string, items []cloud.Item, ran []stretch, from, to time.Time) {
		t.Helper()
		exact := bruteForce(ran, book, from, to)
		exact.Add(exact, big.NewRat(1, 2))
		want := new(big.Int).Quo(exact.Num(), exact.Denom()).Int64()
		if got := cloud.Total(items).Micro(); int64(got) != want {
			t.Errorf("%s is billed %s, and comes to %s second by second", what, got, cloud.Micro(want))
		}
	}
	month := cloud.Rate(ledger, book, begin, end, now)
	if len(month) < 5000 {
		t.Fatalf("the month has only %d items", len(month))
	}
	check("the month", month, ran, begin, end)
	for _, account := range accounts {
		check("account "+string(account), slices.DeleteFunc(slices.Clone(month), func(it cloud.Item) bool { return it.Account != account }),
			slices.DeleteFunc(slices.Clone(ran), func(s stretch) bool { return s.account != account }), begin, end)
	}
	day := begin.AddDate(0, 0, 14)
	check("a day", cloud.Rate(ledger, book, day, day.AddDate(0, 0, 1), now), ran, day, day.AddDate(0, 0, 1))
	shuffled := slices.Clone(ledger)
	rand.New(rand.NewSource(1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if cloud.Total(cloud.Rate(shuffled, book, begin, end, now)) != cloud.Total(month) {
		t.Error("the same ledger in another order makes another bill")
	}
	// A row lasts exactly while its instance costs, and no two rows of one overlap.
	byResource := map[string][]*cloud.Usage{}
	for _, u := range ledger {
		byResource[u.Resource] = append(byResource[u.Resource], u)
	}
	for _, i := range store.List(w.store.View(), store.Instances) {
		rows := byResource[string(i.ID)]
		for n, u := range rows {
			last := n == len(rows)-1
			if u.Number != n+1 || u.End.IsZero() && !last || !last && rows[n+1].Start.Before(u.End) {
				t.Errorf("the rows of %s are %+v", i.ID, rows)
			}
		}
		if costs, lasts := i.Metered().Charge != (cloud.Charge{}), len(rows) > 0 && rows[len(rows)-1].End.IsZero(); costs != lasts {
			t.Errorf("instance %s is %s and its last row lasts: %v", i.ID, i.State, lasts)
		}
	}
}

func TestAddressesAndNATGatewaysAreMeteredWhileTheyAreThere(t *testing.T) {
	w := newWorld(t)
	at := func(h int) time.Time { return start.Add(time.Duration(h) * time.Hour) }
	do := func(h int, fn func(*store.Tx)) { w.update(func(tx *store.Tx) { tx.At(at(h)); fn(tx) }) }
	id := cloud.NewID[cloud.AllocationID](w.rand)
	do(1, func(tx *store.Tx) {
		store.Put(tx, store.Addresses, &cloud.Address{ID: id, Account: w.region.Root, Created: at(1)})
	})
	do(2, func(tx *store.Tx) {
		a, _ := store.Get(tx, store.Addresses, id)
		a.Tags = cloud.Tags{"team": "red"}
		store.Put(tx, store.Addresses, a)
	})
	do(4, func(tx *store.Tx) { store.Delete(tx, store.Addresses, id) })
	gateway := cloud.NATGateway{ID: cloud.NewID[cloud.NATGatewayID](w.rand), Account: w.region.Root, State: cloud.NATPending}
	for h, state := range []cloud.NATGatewayState{cloud.NATPending, cloud.NATAvailable, cloud.NATDeleting, cloud.NATDeleted} {
		do(2*h, func(tx *store.Tx) { gateway.State = state; store.Put(tx, store.NATGateways, &gateway) })
	}
	for resource, want := range map[string]struct {
		kind     cloud.UsageKind
		from, to int
		tag      string
	}{string(id): {cloud.UsageAddress, 1, 4, "red"}, string(gateway.ID): {cloud.UsageNAT, 2, 4, ""}} {
		rows := store.UsageOf(w.store.View(), resource)
		if len(rows) != 1 || rows[0].Kind != want.kind || !rows[0].Start.Equal(at(want.from)) || !rows[0].End.Equal(at(want.to)) || rows[0].Tags["team"] != want.tag {
			t.Errorf("the rows of %s are %+v", resource, rows)
		}
	}
}

func TestAVolumeIsMeteredAsItIsFromItsMakingToItsDeletion(t *testing.T) {
	w := newWorld(t)
	at := func(h int) time.Time { return start.Add(time.Duration(h) * time.Hour) }
	v := cloud.Volume{ID: cloud.NewID[cloud.VolumeID](w.rand), Account: w.region.Root, Type: cloud.VolumeGP3, SizeGiB: 10, IOPS: 3000, Throughput: 125, State: cloud.VolumeCreating}
	layer := cloud.Volume{ID: cloud.NewID[cloud.VolumeID](w.rand), Account: w.region.Root, Type: cloud.VolumeGP3, SizeGiB: 8, State: cloud.VolumeInUse, Root: true, Layer: true}
	for h, change := range []func(){func() {}, func() { v.State = cloud.VolumeAvailable }, func() { v.State = cloud.VolumeInUse }, func() { v.SizeGiB, v.IOPS = 20, 4000 },
		func() { v.Tags = cloud.Tags{"team": "red"} }, func() { v.State = cloud.VolumeAvailable }, func() { v.State = cloud.VolumeDeleting }} {
		change()
		w.update(func(tx *store.Tx) {
			tx.At(at(h))
			store.Put(tx, store.Volumes, new(v))
			store.Put(tx, store.Volumes, &layer)
		})
	}
	w.update(func(tx *store.Tx) { tx.At(at(9)); store.Delete(tx, store.Volumes, v.ID) })
	small := cloud.Charge{Kind: cloud.UsageVolume, Type: "gp3", GiB: 10, IOPS: 3000, Throughput: 125}
	large := small
	large.GiB, large.IOPS = 20, 4000
	rows := store.UsageOf(w.store.View(), string(v.ID))
	if len(rows) != 2 || rows[0].Charge != small || !rows[0].Start.Equal(at(1)) || !rows[0].End.Equal(at(3)) ||
		rows[1].Charge != large || !rows[1].Start.Equal(at(3)) || !rows[1].End.Equal(at(6)) || rows[1].Tags["team"] != "red" {
		t.Errorf("the volume's rows are %+v", rows)
	}
	if rows := store.UsageOf(w.store.View(), string(layer.ID)); len(rows) > 0 {
		t.Errorf("a container's root is metered beside its container: %+v", rows)
	}
}

func TestTheLedgerForgetsWhatIsOverLongAgo(t *testing.T) {
	w := newWorld(t)
	old := &cloud.Usage{Charge: cloud.Charge{Kind: cloud.UsageAddress}, Resource: "old", Number: 1, Start: start, End: start.Add(time.Hour)}
	lasts := &cloud.Usage{Charge: old.Charge, Resource: "lasts", Number: 1, Start: start}
	w.update(func(tx *store.Tx) { store.Put(tx, store.Usages, old); store.Put(tx, store.Usages, lasts) })
	for _, test := range []struct {
		now  time.Time
		rows int
	}{{old.End.Add(UsageFor), 2}, {old.End.Add(UsageFor + 1), 1}} {
		if err := (&Reconcilers{Store: w.store, Now: func() time.Time { return test.now }}).clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rows := store.List(w.store.View(), store.Usages); len(rows) != test.rows {
			t.Errorf("at %s the ledger has %+v", test.now, rows)
		}
	}
}
