package ecr_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/aws/smithy-go"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/registry/wire"
	"github.com/nacre-cloud/nacre/internal/service/ecr"
	"github.com/nacre-cloud/nacre/internal/store"
)

// world is a region whose registry is behind an endpoint for AWS's client, with a clock of its own.
type world struct {
	t     *testing.T
	store *store.Store
	url   string
	*sdk.Client
	account string
	ahead   atomic.Int64
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: store.OpenMemory()}
	t.Cleanup(func() { w.store.Close() })
	region, key, err := control.Bootstrap(t.Context(), w.store, control.FirstStart{Region: "us-east-1", PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: rand.Reader, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	w.account = string(region.Root)
	log := slog.New(slog.DiscardHandler)
	images, err := image.Open(t.Context(), image.StoreConfig{Root: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	repositories, err := registry.New(t.Context(), registry.Config{Store: w.store, Blobs: images.Blobs(), Now: w.now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { repositories.Close() })
	actions := awsapi.NewRegistry(gen.Services()...)
	ecr.New(ecr.Config{Store: w.store, Registry: repositories, Logger: log}).Register(actions)
	keys := func(context.Context, cloud.AccessKeyID) (string, awsapi.Identity, error) {
		return key.Secret, awsapi.Identity{Account: key.Account, AccessKey: key.ID}, nil
	}
	mux := http.NewServeMux()
	mux.Handle("/", wiretest.Handler(t, &awsapi.Server{Registry: actions, Logger: log, Auth: &awsapi.Authenticator{Region: "us-east-1", Keys: keys, Now: time.Now}}, gen.Services()...))
	mux.Handle(wire.Root, &wire.Handler{Registry: repositories, Logger: log})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.Client = sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &w.url, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider(string(key.ID), key.Secret, "")})
	return w
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode[T any](t *testing.T, want string) func(T, error) {
	return func(_ T, err error) {
		t.Helper()
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func (w *world) create(name string) {
	w.t.Helper()
	must[*sdk.CreateRepositoryOutput](w.t)(w.CreateRepository(w.t.Context(), &sdk.CreateRepositoryInput{RepositoryName: &name}))
}

// layer sends a layer in parts, as ECR's own API has it.
func (w *world) layer(repo string, b []byte) string {
	w.t.Helper()
	ctx, d := w.t.Context(), digest.FromBytes(b).String()
	begun := must[*sdk.InitiateLayerUploadOutput](w.t)(w.InitiateLayerUpload(ctx, &sdk.InitiateLayerUploadInput{RepositoryName: &repo}))
	for at := 0; at < len(b); {
		end := min(len(b), at+int(*begun.PartSize))
		must[*sdk.UploadLayerPartOutput](w.t)(w.UploadLayerPart(ctx, &sdk.UploadLayerPartInput{RepositoryName: &repo, UploadId: begun.UploadId,
			PartFirstByte: aws.Int64(int64(at)), PartLastByte: aws.Int64(int64(end - 1)), LayerPartBlob: b[at:end]}))
		at = end
	}
	must[*sdk.CompleteLayerUploadOutput](w.t)(w.CompleteLayerUpload(ctx, &sdk.CompleteLayerUploadInput{RepositoryName: &repo, UploadId: begun.UploadId, LayerDigests: []string{d}}))
	return d
}

// manifest is that of an image of one layer; salt makes it another.
func manifest(config, layer []byte, salt string) string {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"salt": salt},
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}}}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (w *world) image(repo, tag, salt string) string {
	w.t.Helper()
	config, layer := []byte("{}"), []byte("a layer")
	w.layer(repo, config)
	w.layer(repo, layer)
	out := must[*sdk.PutImageOutput](w.t)(w.PutImage(w.t.Context(), &sdk.PutImageInput{RepositoryName: &repo, ImageManifest: aws.String(manifest(config, layer, salt)), ImageTag: &tag}))
	return *out.Image.ImageId.ImageDigest
}

func TestRepositoriesAreMadeShownTaggedAndDeleted(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	made := must[*sdk.CreateRepositoryOutput](t)(w.CreateRepository(ctx, &sdk.CreateRepositoryInput{RepositoryName: aws.String("team/app"), ImageTagMutability: types.ImageTagMutabilityImmutable,
		Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("red")}}})).Repository
	if *made.RepositoryUri != strings.TrimPrefix(w.url, "http://")+"/team/app" || *made.RegistryId != w.account || made.ImageTagMutability != types.ImageTagMutabilityImmutable {
		t.Errorf("made %+v", made)
	}
	wantCode[*sdk.CreateRepositoryOutput](t, "RepositoryAlreadyExistsException")(w.CreateRepository(ctx, &sdk.CreateRepositoryInput{RepositoryName: aws.String("team/app")}))
	for _, bad := range []string{"Upper", "a//b", "-a", "../etc"} {
		wantCode[*sdk.CreateRepositoryOutput](t, "InvalidParameterException")(w.CreateRepository(ctx, &sdk.CreateRepositoryInput{RepositoryName: &bad}))
	}
	wantCode[*sdk.CreateRepositoryOutput](t, "UnsupportedOperationException")(w.CreateRepository(ctx, &sdk.CreateRepositoryInput{RepositoryName: aws.String("scanned"), ImageScanningConfiguration: &types.ImageScanningConfiguration{ScanOnPush: true}}))
	wantCode[*sdk.DescribeRepositoriesOutput](t, "RepositoryNotFoundException")(w.DescribeRepositories(ctx, &sdk.DescribeRepositoriesInput{RepositoryNames: []string{"nobodys"}}))
	wantCode[*sdk.DescribeRepositoriesOutput](t, "InvalidParameterException")(w.DescribeRepositories(ctx, &sdk.DescribeRepositoriesInput{RegistryId: aws.String("999999999999")}))
	wantCode[*sdk.GetRepositoryPolicyOutput](t, "RepositoryPolicyNotFoundException")(w.GetRepositoryPolicy(ctx, &sdk.GetRepositoryPolicyInput{RepositoryName: aws.String("team/app")}))
	wantCode[*sdk.SetRepositoryPolicyOutput](t, "UnknownOperationException")(w.SetRepositoryPolicy(ctx, &sdk.SetRepositoryPolicyInput{RepositoryName: aws.String("team/app"), PolicyText: aws.String("{}")}))

	must[*sdk.TagResourceOutput](t)(w.TagResource(ctx, &sdk.TagResourceInput{ResourceArn: made.RepositoryArn, Tags: []types.Tag{{Key: aws.String("stage"), Value: aws.String("test")}}}))
	must[*sdk.UntagResourceOutput](t)(w.UntagResource(ctx, &sdk.UntagResourceInput{ResourceArn: made.RepositoryArn, TagKeys: []string{"team"}}))
	if tags := must[*sdk.ListTagsForResourceOutput](t)(w.ListTagsForResource(ctx, &sdk.ListTagsForResourceInput{ResourceArn: made.RepositoryArn})).Tags; len(tags) != 1 || *tags[0].Key != "stage" {
		t.Errorf("the tags are %v", tags)
	}
	for n := range 4 {
		w.create(fmt.Sprintf("more-%d", n))
	}
	var names []string
	pages := sdk.NewDescribeRepositoriesPaginator(w.Client, &sdk.DescribeRepositoriesInput{MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		for _, r := range must[*sdk.DescribeRepositoriesOutput](t)(pages.NextPage(ctx)).Repositories {
			names = append(names, *r.RepositoryName)
		}
	}
	if !slices.Equal(names, []string{"more-0", "more-1", "more-2", "more-3", "team/app"}) {
		t.Errorf("the repositories are %v", names)
	}
	w.image("team/app", "v1", "1")
	wantCode[*sdk.DeleteRepositoryOutput](t, "RepositoryNotEmptyException")(w.DeleteRepository(ctx, &sdk.DeleteRepositoryInput{RepositoryName: aws.String("team/app")}))
	must[*sdk.DeleteRepositoryOutput](t)(w.DeleteRepository(ctx, &sdk.DeleteRepositoryInput{RepositoryName: aws.String("team/app"), Force: true}))
	w.create("team/app")
	if list := must[*sdk.ListImagesOutput](t)(w.ListImages(ctx, &sdk.ListImagesInput{RepositoryName: aws.String("team/app")})).ImageIds; len(list) != 0 {
		t.Errorf("a new repository has %v", list)
	}
}

func TestImagesArePutFoundAndDeleted(t *testing.T) {
	w, ctx, repo := newWorld(t), t.Context(), aws.String("team/app")
	w.create(*repo)
	first, second := w.image(*repo, "v1", "1"), w.image(*repo, "v2", "2")
	config, layer := []byte("{}"), []byte("a layer")
	wantCode[*sdk.PutImageOutput](t, "ImageAlreadyExistsException")(w.PutImage(ctx, &sdk.PutImageInput{RepositoryName: repo, ImageManifest: aws.String(manifest(config, layer, "1")), ImageTag: aws.String("v1")}))
	wantCode[*sdk.PutImageOutput](t, "LayersNotFoundException")(w.PutImage(ctx, &sdk.PutImageInput{RepositoryName: repo, ImageManifest: aws.String(manifest(config, []byte("missing"), "1"))}))
	wantCode[*sdk.PutImageOutput](t, "ImageDigestDoesNotMatchException")(w.PutImage(ctx, &sdk.PutImageInput{RepositoryName: repo, ImageManifest: aws.String(manifest(config, layer, "3")), ImageDigest: &first}))
	must[*sdk.PutImageTagMutabilityOutput](t)(w.PutImageTagMutability(ctx, &sdk.PutImageTagMutabilityInput{RepositoryName: repo, ImageTagMutability: types.ImageTagMutabilityImmutable}))
	wantCode[*sdk.PutImageOutput](t, "ImageTagAlreadyExistsException")(w.PutImage(ctx, &sdk.PutImageInput{RepositoryName: repo, ImageManifest: aws.String(manifest(config, layer, "3")), ImageTag: aws.String("v1")}))

	got := must[*sdk.BatchGetImageOutput](t)(w.BatchGetImage(ctx, &sdk.BatchGetImageInput{RepositoryName: repo, ImageIds: []types.ImageIdentifier{{ImageTag: aws.String("v1")}, {ImageTag: aws.String("none")}, {ImageTag: aws.String("v1"), ImageDigest: &second}, {}}}))
	if len(got.Images) != 1 || *got.Images[0].ImageId.ImageDigest != first || digest.FromString(*got.Images[0].ImageManifest).String() != first {
		t.Errorf("got %+v", got.Images)
	}
	var codes []string
	for _, f := range got.Failures {
		codes = append(codes, string(f.FailureCode))
	}
	if !slices.Equal(codes, []string{"ImageNotFound", "ImageTagDoesNotMatchDigest", "MissingDigestAndTag"}) {
		t.Errorf("the failures are %v", codes)
	}
	details := must[*sdk.DescribeImagesOutput](t)(w.DescribeImages(ctx, &sdk.DescribeImagesInput{RepositoryName: repo, ImageIds: []types.ImageIdentifier{{ImageTag: aws.String("v1")}}})).ImageDetails
	if len(details) != 1 || *details[0].ImageSizeInBytes != int64(len(config)+len(layer)) || !slices.Equal(details[0].ImageTags, []string{"v1"}) || details[0].LastRecordedPullTime == nil {
		t.Errorf("described as %+v", details)
	}
	wantCode[*sdk.DescribeImagesOutput](t, "ImageNotFoundException")(w.DescribeImages(ctx, &sdk.DescribeImagesInput{RepositoryName: repo, ImageIds: []types.ImageIdentifier{{ImageTag: aws.String("none")}}}))
	gone := must[*sdk.BatchDeleteImageOutput](t)(w.BatchDeleteImage(ctx, &sdk.BatchDeleteImageInput{RepositoryName: repo, ImageIds: []types.ImageIdentifier{{ImageTag: aws.String("v1")}, {ImageDigest: &first}}}))
	if len(gone.ImageIds) != 1 || len(gone.Failures) != 1 {
		t.Errorf("deleted %+v", gone)
	}
	if list := must[*sdk.ListImagesOutput](t)(w.ListImages(ctx, &sdk.ListImagesInput{RepositoryName: repo})).ImageIds; len(list) != 1 || *list[0].ImageDigest != second {
		t.Errorf("left are %+v", list)
	}
}

func TestLayersAreSentInPartsCheckedAndDownloadedByALink(t *testing.T) {
	w, ctx, repo := newWorld(t), t.Context(), aws.String("team/app")
	w.create(*repo)
	b := bytes.Repeat([]byte("0123456789"), 100_000) // two parts
	d := w.layer(*repo, b)
	missing := digest.FromString("missing").String()
	got := must[*sdk.BatchCheckLayerAvailabilityOutput](t)(w.BatchCheckLayerAvailability(ctx, &sdk.BatchCheckLayerAvailabilityInput{RepositoryName: repo, LayerDigests: []string{d, missing, "md5:0"}}))
	if len(got.Layers) != 2 || got.Layers[0].LayerAvailability != types.LayerAvailabilityAvailable || *got.Layers[0].LayerSize != int64(len(b)) || got.Layers[1].LayerAvailability != types.LayerAvailabilityUnavailable || len(got.Failures) != 1 {
		t.Errorf("checked %+v", got)
	}
	link := must[*sdk.GetDownloadUrlForLayerOutput](t)(w.GetDownloadUrlForLayer(ctx, &sdk.GetDownloadUrlForLayerInput{RepositoryName: repo, LayerDigest: &d}))
	res, err := http.Get(*link.DownloadUrl)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if down, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(down, b) {
		t.Errorf("downloaded %d bytes with status %d: %v", len(down), res.StatusCode, err)
	}
	wantCode[*sdk.GetDownloadUrlForLayerOutput](t, "LayersNotFoundException")(w.GetDownloadUrlForLayer(ctx, &sdk.GetDownloadUrlForLayerInput{RepositoryName: repo, LayerDigest: &missing}))
	begun := must[*sdk.InitiateLayerUploadOutput](t)(w.InitiateLayerUpload(ctx, &sdk.InitiateLayerUploadInput{RepositoryName: repo}))
	part := func(first, last int64, b []byte) (*sdk.UploadLayerPartOutput, error) {
		return w.UploadLayerPart(ctx, &sdk.UploadLayerPartInput{RepositoryName: repo, UploadId: begun.UploadId, PartFirstByte: &first, PartLastByte: &last, LayerPartBlob: b})
	}
	complete := func() (*sdk.CompleteLayerUploadOutput, error) {
		return w.CompleteLayerUpload(ctx, &sdk.CompleteLayerUploadInput{RepositoryName: repo, UploadId: begun.UploadId, LayerDigests: []string{missing}})
	}
	wantCode[*sdk.CompleteLayerUploadOutput](t, "EmptyUploadException")(complete())
	wantCode[*sdk.UploadLayerPartOutput](t, "InvalidLayerPartException")(part(5, 7, []byte("abc")))
	wantCode[*sdk.UploadLayerPartOutput](t, "InvalidParameterException")(part(0, 7, []byte("abc")))
	must[*sdk.UploadLayerPartOutput](t)(part(0, 2, []byte("abc")))
	wantCode[*sdk.CompleteLayerUploadOutput](t, "InvalidLayerException")(complete())
	wantCode[*sdk.CompleteLayerUploadOutput](t, "UploadNotFoundException")(complete())
}

func TestATokenIsAPasswordForTheRegistryAtTheEndpoint(t *testing.T) {
	w := newWorld(t)
	data := must[*sdk.GetAuthorizationTokenOutput](t)(w.GetAuthorizationToken(t.Context(), &sdk.GetAuthorizationTokenInput{})).AuthorizationData[0]
	if left := time.Until(*data.ExpiresAt); *data.ProxyEndpoint != w.url || left < 11*time.Hour || left > 12*time.Hour {
		t.Errorf("got %s until %v", *data.ProxyEndpoint, data.ExpiresAt)
	}
	pair, err := base64.StdEncoding.DecodeString(*data.AuthorizationToken)
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(string(pair), ":")
	status := func() int {
		r, err := http.NewRequestWithContext(t.Context(), "GET", *data.ProxyEndpoint+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, password)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if s := status(); user != "AWS" || s != 200 {
		t.Errorf("%s gets status %d", user, s)
	}
	w.ahead.Add(int64(13 * time.Hour))
	if s := status(); s != 401 {
		t.Errorf("after 13 hours it gets status %d", s)
	}
}

func TestLifecyclePoliciesExpireImagesAsTheirPreviewSaid(t *testing.T) {
	w, repo := newWorld(t), aws.String("team/app")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.create(*repo)
	var digests []string
	for n := range 3 {
		digests = append(digests, w.image(*repo, fmt.Sprintf("v%d", n), fmt.Sprint(n)))
		w.ahead.Add(int64(time.Second))
	}
	policy := `{"rules":[{"rulePriority":3,"selection":{"tagStatus":"any","countType":"imageCountMoreThan","countNumber":1},"action":{"type":"expire"}}]}`
	wantCode[*sdk.PutLifecyclePolicyOutput](t, "InvalidParameterException")(w.PutLifecyclePolicy(ctx, &sdk.PutLifecyclePolicyInput{RepositoryName: repo, LifecyclePolicyText: aws.String(strings.Replace(policy, "expire", "archive", 1))}))
	wantCode[*sdk.GetLifecyclePolicyOutput](t, "LifecyclePolicyNotFoundException")(w.GetLifecyclePolicy(ctx, &sdk.GetLifecyclePolicyInput{RepositoryName: repo}))
	wantCode[*sdk.GetLifecyclePolicyPreviewOutput](t, "LifecyclePolicyPreviewNotFoundException")(w.GetLifecyclePolicyPreview(ctx, &sdk.GetLifecyclePolicyPreviewInput{RepositoryName: repo}))
	must[*sdk.StartLifecyclePolicyPreviewOutput](t)(w.StartLifecyclePolicyPreview(ctx, &sdk.StartLifecyclePolicyPreviewInput{RepositoryName: repo, LifecyclePolicyText: &policy}))
	preview := must[*sdk.GetLifecyclePolicyPreviewOutput](t)(w.GetLifecyclePolicyPreview(ctx, &sdk.GetLifecyclePolicyPreviewInput{RepositoryName: repo}))
	if len(preview.PreviewResults) != 2 || *preview.Summary.ExpiringImageTotalCount != 2 || *preview.PreviewResults[0].AppliedRulePriority != 3 {
		t.Errorf("the preview is %+v", preview.PreviewResults)
	}
	must[*sdk.PutLifecyclePolicyOutput](t)(w.PutLifecyclePolicy(ctx, &sdk.PutLifecyclePolicyInput{RepositoryName: repo, LifecyclePolicyText: &policy}))
	done := make(chan error, 1)
	reconcilers := &control.Reconcilers{Store: w.store, Now: w.now, Logger: slog.New(slog.DiscardHandler)}
	go func() { done <- reconcilers.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for {
		list := must[*sdk.ListImagesOutput](t)(w.ListImages(ctx, &sdk.ListImagesInput{RepositoryName: repo})).ImageIds
		if len(list) == 1 {
			if *list[0].ImageDigest != digests[2] {
				t.Errorf("left is %+v", list)
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	got := must[*sdk.DeleteLifecyclePolicyOutput](t)(w.DeleteLifecyclePolicy(ctx, &sdk.DeleteLifecyclePolicyInput{RepositoryName: repo}))
	if *got.LifecyclePolicyText != policy || got.LastEvaluatedAt == nil {
		t.Errorf("deleted %+v", got)
	}
}
