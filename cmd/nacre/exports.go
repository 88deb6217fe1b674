package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/service/nacre"
)

// exportPath and the id behind it give an image out.
const exportPath = "/_nacre/images/"

// exportStall is how long who reads an export may take nothing.
const exportStall = 30 * time.Second

// exportHandler sends images, whole or cut off in the middle so that the receiver knows.
func exportHandler(service *nacre.Service, auth *awsapi.Authenticator, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, _, err := auth.Stream(r, uploadService)
		if err != nil {
			awsapi.WriteError(w, err)
			return
		}
		id, format := r.PathValue("image"), r.URL.Query().Get("format")
		body, err := service.ExportImage(r.Context(), who.Account, id, format)
		if err != nil {
			awsapi.WriteError(w, err)
			return
		}
		defer body.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		n, err := io.Copy(&persistent{w: w, control: http.NewResponseController(w)}, body)
		log.Info("export", "image", id, "format", format, "bytes", n, "account", who.Account, "error", err)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// persistent writes an answer of any length, as long as somebody goes on taking it.
type persistent struct {
	w       io.Writer
	control *http.ResponseController
}

func (p *persistent) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(exportStall)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

func imageExportCommand(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "export IMAGE FILE", Short: "Write an image to a file: an OCI archive, or a whole disk",
		Long: `Write an image to a file. An image of layers becomes an OCI archive, which "nacre image import" takes again as the same image, and
podman, docker and skopeo read; a whole disk becomes qcow2, raw or vmdk. FILE is there whole or not at all; "-" is the standard output.`,
		Example: "  nacre image export web web.tar && podman load -i web.tar\n  nacre image export debian-12-cloud disk.raw --format raw",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: g.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			img, err := a.findImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if args[1] == "-" {
				return a.export(cmd.Context(), img.ID, format, cmd.OutOrStdout())
			}
			return a.exportTo(cmd, img.ID, format, args[1])
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "`FORMAT` of the file: oci for layers; qcow2, raw, vmdk for whole disks (default oci, or qcow2)")
	return cmd
}

// exportTo writes an image to a file, which appears when it is whole.
func (a *api) exportTo(cmd *cobra.Command, id, format, path string) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	total := int64(0)
	if err := a.export(cmd.Context(), id, format, writerFunc(func(b []byte) (int, error) {
		n, err := f.Write(b)
		total += int64(n)
		show.set(0, 0, fmt.Sprintf("writing %s: %d MiB", path, total>>20))
		return n, err
	})); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// export reads an image from the endpoint.
func (a *api) export(ctx context.Context, id, format string, w io.Writer) error {
	path := exportPath + id
	if format != "" {
		path += "?" + url.Values{"format": {strings.ToLower(format)}}.Encode()
	}
	nothing := sha256.Sum256(nil)
	body, err := a.raw.Get(ctx, path, uploadService, hex.EncodeToString(nothing[:]))
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("the image %s did not arrive whole; nacre's log says why: %w", id, err)
	}
	return nil
}
