package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

const blockBytes = 512 << 10

func blockDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// awsEBS calls the AWS CLI, and decodes what it prints.
func awsEBS(t *testing.T, c *cloudtest.Cloud, door string, out any, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "aws", append([]string{"--endpoint-url", door, "--output", "json", "ebs"}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Key.Secret, "AWS_DEFAULT_REGION="+c.Key.Region, "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null")
	b, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			b = exit.Stderr
		}
		t.Fatalf("aws ebs %v: %v: %s", args, err, b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("aws ebs %v printed %s", args, b)
	}
}

func completed(t *testing.T, c *cloudtest.Cloud, id string) {
	t.Helper()
	c.WaitFor(cloudtest.StateLimit, "the snapshot is complete", func() error {
		out, err := c.EC2.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
		if err == nil && out.Snapshots[0].State != types.SnapshotStateCompleted {
			err = fmt.Errorf("it is %s, %v", out.Snapshots[0].State, out.Snapshots[0].StateMessage)
		}
		return err
	})
}

func TestSnapshotsAreReadAndWrittenBlockByBlockByAWSsOwnClients(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	direct := c.EBS()
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	m := c.SSH(i, "root", key).WaitLogin()
	disk := made(c, "--size", "1", "--name", "disk")
	c.Nacre("volume", "attach", disk, *i.InstanceId, "--device", "/dev/sdp")
	m.Run("echo one | dd of=/dev/xvdp conv=fsync,notrunc 2>/dev/null")
	snapshot := func() string {
		t.Helper()
		out, err := c.EC2.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: &disk})
		if err != nil {
			t.Fatal(err)
		}
		completed(t, c, *out.SnapshotId)
		return *out.SnapshotId
	}
	first := snapshot()
	m.Run("echo two | dd of=/dev/xvdp bs=512k seek=7 conv=fsync,notrunc 2>/dev/null")
	second := snapshot()

	// Read, by the SDK and by the CLI.
	changed, err := direct.ListChangedBlocks(t.Context(), &ebs.ListChangedBlocksInput{FirstSnapshotId: &first, SecondSnapshotId: &second})
	if err != nil || len(changed.ChangedBlocks) != 1 || *changed.ChangedBlocks[0].BlockIndex != 7 || changed.ChangedBlocks[0].FirstBlockToken != nil {
		t.Fatalf("what changed is %+v, %v", changed, err)
	}
	got, err := direct.GetSnapshotBlock(t.Context(), &ebs.GetSnapshotBlockInput{SnapshotId: &second, BlockIndex: new(int32(7)), BlockToken: changed.ChangedBlocks[0].SecondBlockToken})
	if err != nil {
		t.Fatal(err)
	}
	block, err := io.ReadAll(got.BlockData)
	if err != nil || len(block) != blockBytes || *got.DataLength != blockBytes || !bytes.HasPrefix(block, []byte("two\n")) || *got.Checksum != blockDigest(block) {
		t.Errorf("the block has %d bytes, %v, and the checksum %s", len(block), err, *got.Checksum)
	}
	_, err = direct.GetSnapshotBlock(t.Context(), &ebs.GetSnapshotBlockInput{SnapshotId: &second, BlockIndex: new(int32(0)), BlockToken: changed.ChangedBlocks[0].SecondBlockToken})
	var invalid *ebstypes.ValidationException
	if !errors.As(err, &invalid) || invalid.Reason != ebstypes.ValidationExceptionReasonInvalidBlockToken {
		t.Errorf("another block's token: %v", err)
	}
	door := c.Door()
	var listed struct {
		Blocks []struct {
			BlockIndex int
			BlockToken string
		}
		VolumeSize, BlockSize int
	}
	awsEBS(t, c, door, &listed, "list-snapshot-blocks", "--snapshot-id", second)
	if len(listed.Blocks) != 2 || listed.Blocks[0].BlockIndex != 0 || listed.Blocks[1].BlockIndex != 7 || listed.VolumeSize != 1 || listed.BlockSize != blockBytes {
		t.Fatalf("the CLI lists %+v", listed)
	}
	file := filepath.Join(t.TempDir(), "block")
	var read struct {
		Checksum   string
		DataLength int
	}
	awsEBS(t, c, door, &read, "get-snapshot-block", "--snapshot-id", second, "--block-index", "0", "--block-token", listed.Blocks[0].BlockToken, file)
	if block, err = os.ReadFile(file); err != nil || !bytes.HasPrefix(block, []byte("one\n")) || read.Checksum != blockDigest(block) {
		t.Errorf("the CLI reads %d bytes, %v: %+v", len(block), err, read)
	}

	// Write, over the second: by the SDK, killed in between, and by the CLI.
	started, err := direct.StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: new(int64(2)), ParentSnapshotId: &second, ClientToken: new("token"), Description: new("written")})
	if err != nil {
		t.Fatal(err)
	}
	id := *started.SnapshotId
	random := make([]byte, blockBytes)
	rand.Read(random)
	put := func(index int32, b []byte, sum string) error {
		_, err := c.EBS().PutSnapshotBlock(t.Context(), &ebs.PutSnapshotBlockInput{SnapshotId: &id, BlockIndex: &index, BlockData: bytes.NewReader(b), DataLength: new(int32(len(b))),
			Checksum: &sum, ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, Progress: new(int32(50))})
		return err
	}
	if err := put(3, random, blockDigest(random)); err != nil {
		t.Fatal(err)
	}
	if err := put(4, random, blockDigest(block)); !errors.As(err, &invalid) || invalid.Reason != ebstypes.ValidationExceptionReasonInvalidBlock {
		t.Errorf("a block with another's checksum: %v", err)
	}
	c.Kill()
	c.Up()
	c.WaitFor(cloudtest.StateLimit, "the same call again finds the snapshot", func() error {
		again, err := c.EBS().StartSnapshot(t.Context(), &ebs.StartSnapshotInput{VolumeSize: new(int64(2)), ParentSnapshotId: &second, ClientToken: new("token"), Description: new("written")})
		if err == nil && *again.SnapshotId != id {
			t.Errorf("it starts another, %s", *again.SnapshotId)
		}
		return err
	})
	if err := os.WriteFile(file, slices.Concat([]byte("seven"), make([]byte, blockBytes-5)), 0o600); err != nil {
		t.Fatal(err)
	}
	seven, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	awsEBS(t, c, door, &read, "put-snapshot-block", "--snapshot-id", id, "--block-index", "7", "--block-data", file, "--data-length", fmt.Sprint(blockBytes), "--checksum", blockDigest(seven),
		"--checksum-algorithm", "SHA256")
	three, all := sha256.Sum256(random), sha256.New()
	sum7 := sha256.Sum256(seven)
	all.Write(three[:])
	all.Write(sum7[:])
	finish := func(count int32) error {
		_, err := c.EBS().CompleteSnapshot(t.Context(), &ebs.CompleteSnapshotInput{SnapshotId: &id, ChangedBlocksCount: &count, Checksum: new(base64.StdEncoding.EncodeToString(all.Sum(nil))),
			ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear})
		return err
	}
	if err := finish(3); !errors.As(err, &invalid) {
		t.Errorf("with another count: %v", err)
	}
	if err := finish(2); err != nil {
		t.Fatal(err)
	}
	completed(t, c, id)
	restored := made(c, "--snapshot", id)
	c.Nacre("volume", "attach", restored, *i.InstanceId, "--device", "/dev/sdq")
	m.WaitLogin()
	want := fmt.Sprintf("one%x  -seven", three)
	if got := m.Run("head -c 3 /dev/xvdq; dd if=/dev/xvdq bs=512k skip=3 count=1 2>/dev/null | sha256sum | tr -d '\\n'; dd if=/dev/xvdq bs=512k skip=7 count=1 2>/dev/null | head -c 5"); got != want {
		t.Errorf("the restored volume says %q, not %q", got, want)
	}
}
