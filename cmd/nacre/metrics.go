package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

// metricsPath is where Prometheus looks unless told otherwise.
const metricsPath = "/metrics"

// serveMetrics answers scrapes at l until ctx ends. They are not signed, so that l is an address of its own that the operator has chosen.
func serveMetrics(ctx context.Context, l net.Listener, scrapes http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET "+metricsPath, scrapes)
	server := awsapi.NewHTTPServer(mux)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the metrics: %w", err)
	}
	return nil
}
