package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// EtcdConfig says where and how the embedded etcd runs.
type EtcdConfig struct {
	// DataDir is the directory of the store's files. It is made if it is missing; one process
	// uses it at a time.
	DataDir string
	// QuotaBytes bounds the database; 0 is DefaultQuotaBytes. A store that has reached it
	// refuses all writes with ErrFull until it is opened with a higher one.
	QuotaBytes int64
	// HistoryKept is how long old revisions stay in the database; 0 is DefaultHistoryKept.
	HistoryKept time.Duration
	// Logger gets etcd's warnings and errors.
	Logger *slog.Logger
}

const (
	DefaultQuotaBytes  = 8 << 30
	DefaultHistoryKept = 5 * time.Minute
)

const (
	// Nobody competes with a single member for the lead, so its patience need only be short
	// enough for a quick start.
	heartbeat = 20 * time.Millisecond
	election  = 200 * time.Millisecond

	// snapshotEvery bounds what a start must replay, and catchUp what stays in memory of the
	// log; a single member has no follower that would need more.
	snapshotEvery = 2000
	catchUp       = 100

	// commitTimeout is when a disk that doesn't answer makes a commit uncertain.
	commitTimeout = 15 * time.Second

	loadPage = 10_000 // keys

	// peerURL is where the member would be found by others. It has none, and listens nowhere.
	peerURL = "http://127.0.0.1:1"
)

// OpenEtcd opens the store in cfg.DataDir, an empty one the first time, and recovers it from
// whatever end its last process found. ctx bounds the opening only. There are no sockets: the
// store talks to etcd inside the process.
func OpenEtcd(ctx context.Context, cfg EtcdConfig) (*Store, error) {
	b, err := startEtcd(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", cfg.DataDir, err)
	}
	s, err := open(ctx, b, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", cfg.DataDir, err)
	}
	return s, nil
}

// etcd is the backend on an embedded member.
type etcd struct {
	lock   *os.File
	server *embed.Etcd
	client *clientv3.Client
}

func startEtcd(ctx context.Context, cfg EtcdConfig) (b *etcd, err error) {
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	b = &etcd{lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	core := &etcdLog{logger: cfg.Logger}
	core.floor.Store(int32(zapcore.ErrorLevel)) // its warnings at start are about our settings
	if b.server, err = launch(cfg.embedded(core)); err != nil {
		return b, err
	}
	select {
	case <-b.server.Server.ReadyNotify():
	case err := <-b.server.Err():
		return b, fmt.Errorf("start etcd: %w", err)
	case <-b.server.Server.StopNotify():
		return b, errors.New("start etcd: it stopped at once; its log says why")
	case <-ctx.Done():
		return b, fmt.Errorf("wait for etcd to be ready: %w", ctx.Err())
	}
	core.floor.Store(int32(zapcore.WarnLevel))
	b.client = v3client.New(b.server.Server)
	if err := b.liftAlarm(ctx, cfg); err != nil {
		return b, err
	}
	return b, nil
}

// lockDir makes a directory and takes it for this process. etcd itself would wait for
// another process's lock for ever.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another process uses the data directory")
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return lock, nil
}

func (cfg EtcdConfig) quota() int64 {
	if cfg.QuotaBytes > 0 {
		return cfg.QuotaBytes
	}
	return DefaultQuotaBytes
}

// embedded returns etcd's settings.
func (cfg EtcdConfig) embedded(core zapcore.Core) *embed.Config {
	peer, err := url.Parse(peerURL)
	if err != nil {
		panic(err) // it is a constant
	}
	kept := cfg.HistoryKept
	if kept <= 0 {
		kept = DefaultHistoryKept
	}
	e := embed.NewConfig()
	e.Name = "nacre"
	e.Dir = filepath.Join(cfg.DataDir, "etcd")
	e.ListenPeerUrls = nil
	e.ListenClientUrls = nil
	e.AdvertiseClientUrls = nil
	e.AdvertisePeerUrls = []url.URL{*peer}
	e.InitialCluster = e.InitialClusterFromName(e.Name)
	e.TickMs = uint(heartbeat.Milliseconds())
	e.ElectionMs = uint(election.Milliseconds())
	e.SnapshotCount = snapshotEvery
	e.SnapshotCatchUpEntries = catchUp
	e.MaxTxnOps = MaxTxnOps
	e.MaxRequestBytes = 2 * MaxTxnBytes // values, and the keys of guards
	e.QuotaBackendBytes = cfg.quota()
	e.AutoCompactionMode = embed.CompactorModePeriodic
	e.AutoCompactionRetention = strconv.FormatInt(kept.Milliseconds(), 10) + "ms"
	e.BootstrapDefragThresholdMegabytes = 64
	// A failure that etcd would end the process for is an error while it starts (see
	// launch); later it ends the process just the same, as a panic.
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(core, zap.WithFatalHook(zapcore.WriteThenPanic)))
	return e
}

// launch starts etcd, and returns as errors what it would panic about, such as damaged files.
// Parts of etcd may then still run; a process that gets such an error should end.
func launch(cfg *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			e, err = nil, fmt.Errorf("start etcd: %v", p)
		}
	}()
	e, err = embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return e, nil
}

// liftAlarm lets writes through again after a quota was reached and then raised. etcd would
// keep refusing until told.
func (b *etcd) liftAlarm(ctx context.Context, cfg EtcdConfig) error {
	alarms, err := b.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("ask etcd for alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if size := b.server.Server.Backend().Size(); size >= cfg.quota() {
			return nil
		}
		if _, err := b.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("lift etcd's alarm %s: %w", a.Alarm, err)
		}
	}
	return nil
}

func (b *etcd) down() <-chan struct{} { return b.server.Server.StopNotify() }

func (b *etcd) reason() error { return errors.New("etcd stopped by itself; its log says why") }

func (b *etcd) close() error {
	var err error
	if b.client != nil {
		// The client is one with the server: it reports the end of its own context.
		if err = b.client.Close(); errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	if b.server != nil {
		b.server.Close()
	}
	return errors.Join(err, b.lock.Close())
}
