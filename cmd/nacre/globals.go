package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/sts"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
)

// globals are the flags that every command has.
type globals struct {
	dataDir string
	output  string
}

func (g *globals) json() bool { return g.output == "json" }

// absoluteDir is the data directory that the flag or the environment picks.
func (g *globals) absoluteDir() (dataDir, error) {
	if g.output != "table" && g.output != "json" {
		return "", fmt.Errorf("--output %q: use table or json", g.output)
	}
	dir := g.dataDir
	if dir == "" {
		dir = os.Getenv(dataDirEnv)
	}
	if dir == "" {
		dir = defaultDataDir
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("data directory %s: %w", dir, err)
	}
	return dataDir(abs), nil
}

// api is a cloud to talk to.
type api struct {
	ec2  ec2.Client
	sts  sts.Client
	own  nacre.Client // nacre's own service
	raw  *awsapi.Client
	keys string // directory of private keys
}

// connect finds the cloud: the data directory that a flag names, else the one in the AWS variables, else this
// machine's own.
func (g *globals) connect() (*api, error) {
	dir, err := g.absoluteDir()
	if err != nil {
		return nil, err
	}
	c := &awsapi.Client{Endpoint: os.Getenv("AWS_ENDPOINT_URL"), AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), Secret: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		Region: firstOf(os.Getenv("AWS_DEFAULT_REGION"), os.Getenv("AWS_REGION"), defaultRegion)}
	keys := ""
	if g.dataDir != "" || c.Endpoint == "" || c.AccessKey == "" || c.Secret == "" {
		a, err := dir.readAccess()
		if err != nil {
			return nil, err
		}
		c = &awsapi.Client{Endpoint: a.Endpoint, Region: a.Region, AccessKey: a.AccessKey, Secret: a.Secret}
		keys = dir.keys()
	} else if a, err := dir.readAccess(); err == nil && a.AccessKey == c.AccessKey {
		keys = dir.keys()
	} else {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find a directory for keys: %w", err)
		}
		keys = filepath.Join(home, ".nacre", "keys")
	}
	return &api{ec2: ec2.Client{Client: c}, sts: sts.Client{Client: c}, own: nacre.Client{Client: c}, raw: c, keys: keys}, nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// explain says an error as a person wants it, with the next step where there is one.
func explain(err error) string {
	var e *awsapi.Error
	if errors.As(err, &e) {
		return fmt.Sprintf("%s (%s)", e.Message, e.Code)
	}
	var op *net.OpError
	if errors.Is(err, unix.ECONNREFUSED) && errors.As(err, &op) && op.Addr != nil {
		return fmt.Sprintf("nothing answers at %s; start the cloud with `nacre up --detach`", op.Addr)
	}
	return err.Error()
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
