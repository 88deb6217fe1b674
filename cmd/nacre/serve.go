package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nacre-cloud/nacre/internal/agent/volume/keyring"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/pulse"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/registry/wire"
	"github.com/nacre-cloud/nacre/internal/service/billing"
	"github.com/nacre-cloud/nacre/internal/service/ebs"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
	"github.com/nacre-cloud/nacre/internal/service/ecr"
	"github.com/nacre-cloud/nacre/internal/service/instanceconnect"
	"github.com/nacre-cloud/nacre/internal/service/nacre"
	"github.com/nacre-cloud/nacre/internal/service/sts"
	"github.com/nacre-cloud/nacre/internal/store"
	"github.com/nacre-cloud/nacre/internal/upload"
)

const (
	// cloudIDFile tells operators and tests by which mark to find this cloud's traces on the host.
	cloudIDFile = "cloud-id"
	// closeGrace is what calls under way get when the manager ends.
	closeGrace   = 2 * time.Second
	uploadsEvery = 10 * time.Minute
)

// serve runs control plane and agent until ctx ends. Machines go on.
func serve(ctx context.Context, o upOptions, out, logs io.Writer) (err error) {
	lock, err := o.dir.takeLock()
	if err != nil {
		return err
	}
	defer lock.release()
	log := slog.New(slog.NewTextHandler(logs, nil))
	s, err := store.OpenEtcd(ctx, store.EtcdConfig{DataDir: o.dir.etcd(), Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	region, key, err := bootstrap(ctx, s, o)
	if err != nil {
		return err
	}
	// The port first: a cloud whose endpoint is taken must not start to run things.
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w; choose another address with --listen", err)
	}
	a := access{Endpoint: "http://" + l.Addr().String(), Region: region.Name, Account: string(region.Root), AccessKey: string(key.ID), Secret: key.Secret}
	if err := errors.Join(o.dir.writeAccess(a), renameio.WriteFile(o.dir.path(cloudIDFile), []byte(region.CloudID+"\n"), 0o644)); err != nil {
		return errors.Join(err, l.Close())
	}
	uploads, err := upload.Open(o.dir.uploads())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	images, err := openImages(ctx, o.dir, log.With("part", "agent"))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	repositories, err := registry.New(ctx, registry.Config{Store: s, Blobs: images.Blobs(), Now: time.Now, Logger: log.With("part", "registry")})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, repositories.Close()) }()
	secrets := upload.NewSecrets()
	gateway := control.NewGateway(s, time.Now, log.With("part", "gateway"))
	health := pulse.New(s, gateway.Connected)
	reconcilers := &control.Reconcilers{Store: s, Now: time.Now, Logger: log.With("part", "control"), Reconciled: health.Reconciled}

	var metrics net.Listener
	if o.metrics != "" {
		if metrics, err = net.Listen("tcp", o.metrics); err != nil {
			return errors.Join(fmt.Errorf("listen for Prometheus: %w; choose another address with --metrics-listen", err), l.Close())
		}
		defer metrics.Close()
	}

	group, ctx := errgroup.WithContext(ctx)
	agents, err := listenAgents(o.dir, gateway)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	consoles := instanceconnect.New(instanceconnect.Config{Store: s, Nodes: gateway, Rand: rand.Reader, Now: time.Now, Logger: log.With("part", "consoles")})
	api := awsapi.NewHTTPServer(apiHandler(s, region, gateway, health, consoles, uploads, secrets, repositories, log))
	api.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	door := newEndpoint(l)
	if metrics != nil {
		group.Go(func() error { return serveMetrics(ctx, metrics, health.Handler()) })
	}
	group.Go(func() error { return reconcilers.Run(ctx) })
	group.Go(func() error { return cleanUploads(ctx, s, uploads, log) })
	group.Go(func() error { return repositories.Run(ctx) })
	group.Go(func() error {
		if err := api.Serve(door.http); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("serve the API: %w", err)
		}
		return nil
	})
	group.Go(func() error { return consoles.Serve(ctx, door.ssh) })
	group.Go(func() error {
		if err := door.mux.Serve(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("take connections in: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		if err := agents.server.Serve(agents.listener); err != nil && ctx.Err() == nil {
			return fmt.Errorf("serve the agents: %w", err)
		}
		return nil
	})
	group.Go(func() error { return runAgent(ctx, o, region, images, uploads, secrets, log.With("part", "agent")) })
	group.Go(func() error {
		select {
		case <-s.Done():
			return fmt.Errorf("the store ended: %w", s.Err())
		case <-ctx.Done():
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		agents.server.Stop()
		if err := api.Shutdown(closing); err != nil {
			api.Close()
		}
		return nil
	})
	greet(out, o.dir, a)
	return group.Wait()
}

func bootstrap(ctx context.Context, s *store.Store, o upOptions) (cloud.Region, cloud.AccessKey, error) {
	first := control.FirstStart{Region: o.region, Rand: rand.Reader, Now: time.Now().UTC()}
	if o.pool != "" {
		first.PublicPool = netip.MustParsePrefix(o.pool)
	}
	settledRegion, settled := store.Region(s.View())
	if !settled || settledRegion.VolumeKey == "" { // a key that is lost is not made anew
		var err error
		if first.VolumeKey, err = keyring.Make(o.dir.masterKey()); err != nil {
			return cloud.Region{}, cloud.AccessKey{}, err
		}
	}
	if !settled {
		if first.Region == "" {
			first.Region = defaultRegion
		}
		if o.pool == "" {
			first.PublicPool = netip.MustParsePrefix(defaultPool)
		}
	}
	return control.Bootstrap(ctx, s, first)
}

// apiHandler is everything that answers at the endpoint.
func apiHandler(s *store.Store, region cloud.Region, gateway *control.Gateway, health *pulse.Pulse, consoles *instanceconnect.Service, uploads *upload.Dir, secrets *upload.Secrets, repositories *registry.Registry, log *slog.Logger) http.Handler {
	auth := &awsapi.Authenticator{Region: region.Name, Now: time.Now, Keys: func(_ context.Context, id cloud.AccessKeyID) (string, awsapi.Identity, error) {
		k, ok := store.Get(s.View(), store.AccessKeys, id)
		if !ok {
			return "", awsapi.Identity{}, awsapi.ErrNoKey
		}
		return k.Secret, awsapi.Identity{Account: k.Account, AccessKey: k.ID, ARN: "arn:aws:iam::" + string(k.Account) + ":root", UserID: string(k.Account)}, nil
	}}
	actions := awsapi.NewRegistry(gen.Services()...)
	ec2.New(ec2.Config{Store: s, Console: gateway, Rand: rand.Reader, Now: time.Now, Logger: log.With("part", "ec2")}).Register(actions)
	sts.Register(actions)
	consoles.Register(actions)
	own := nacre.New(nacre.Config{Store: s, Nodes: gateway, Secrets: secrets, Rand: rand.Reader, Logger: log.With("part", "nacre")})
	own.Register(actions)
	billing.New(s).Register(actions)
	ecr.New(ecr.Config{Store: s, Registry: repositories, Logger: log.With("part", "ecr")}).Register(actions)
	ebs.New(ebs.Config{Store: s, Nodes: gateway, Rand: rand.Reader, Now: time.Now, Logger: log.With("part", "ebs")}).Register(actions)
	mux := http.NewServeMux()
	mux.Handle("/", &awsapi.Server{Registry: actions, Auth: auth, Logger: log.With("part", "api"), Observe: health.Call})
	mux.Handle(wire.Root, &wire.Handler{Registry: repositories, Logger: log.With("part", "registry")})
	mux.HandleFunc("GET "+exportPath+"{image}", exportHandler(own, auth, log.With("part", "exports")))
	mux.HandleFunc("PUT "+uploadPath+"{digest}", uploadHandler(uploads, auth, log.With("part", "uploads")))
	return mux
}

// agentServer is where agents connect.
type agentServer struct {
	server   *grpc.Server
	listener net.Listener
}

// listenAgents listens on a socket that only root can open.
func listenAgents(dir dataDir, gateway *control.Gateway) (agentServer, error) {
	path := dir.agentSocket()
	// This process holds the data directory's lock: whoever bound the socket is gone.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return agentServer{}, fmt.Errorf("listen for agents: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return agentServer{}, fmt.Errorf("listen for agents: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return agentServer{}, errors.Join(fmt.Errorf("listen for agents: %w", err), l.Close())
	}
	server := grpc.NewServer(agentrpc.ServerOptions()...)
	agentrpc.Register(server, gateway)
	return agentServer{server, l}, nil
}

// dialControl connects this node's agent to the control plane beside it.
func dialControl(dir dataDir) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+filepath.ToSlash(dir.agentSocket()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the control plane: %w", err)
	}
	return conn, nil
}

// cleanUploads forgets archives that no import wants.
func cleanUploads(ctx context.Context, s *store.Store, uploads *upload.Dir, log *slog.Logger) error {
	tick := time.NewTicker(uploadsEvery)
	defer tick.Stop()
	for {
		wanted := map[string]bool{}
		for _, t := range store.ListBy(s.View(), store.ImportTasksByState, cloud.ImportActive) {
			if digest, ok := strings.CutPrefix(t.Source, "upload:"); ok {
				wanted[digest] = true
			}
			if t.Build != nil {
				wanted[t.Build.Context] = true
			}
		}
		if err := uploads.Clean(wanted, time.Now()); err != nil {
			log.Error("clean uploads away", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
