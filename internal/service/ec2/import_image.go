package ec2

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/registry"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerImports(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionImportImage, s.importImage, awsapi.Honours("DiskContainers.Url", "DiskContainers.Description", "DiskContainers.Format", "Architecture", "BootMode", "Description", "TagSpecifications", "ClientToken", "Platform"))
	awsapi.Handle(r, ec2.ActionDescribeImportImageTasks, s.describeImportImageTasks, awsapi.Honours("Filters", "ImportTaskIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionCancelImportTask, s.cancelImportTask, awsapi.Honours("ImportTaskId", "CancelReason"))
}

var (
	uploadSource   = regexp.MustCompile(`^upload:sha256:[0-9a-f]{64}$`)
	registrySource = regexp.MustCompile(`^docker://[a-zA-Z0-9][a-zA-Z0-9.:\[\]/_@-]{1,400}$`)
	recipeSource   = regexp.MustCompile(`^bake:[a-z0-9][a-z0-9.-]{0,63}$`)
)

const maxActiveImports = 20

// importImage starts an import: the disk container's URL is where the image comes from, and the tag Name, or else the
// description, what the AMI is called.
func (s *Service) importImage(ctx context.Context, call *awsapi.Call, req *ec2.ImportImageRequest) (*ec2.ImportImageResult, error) {
	if len(req.DiskContainers) != 1 || deref(req.DiskContainers[0].Url) == "" {
		return nil, awsapi.MissingParameter("DiskContainer.1.Url")
	}
	if p := deref(req.Platform); p != "" && !strings.EqualFold(p, "Linux") {
		return nil, awsapi.Unsupported("The platform '%s' is not supported by this cloud.", p)
	}
	source := *req.DiskContainers[0].Url
	operator := false
	pushed, own, err := pushedImage(call, source)
	if err != nil {
		return nil, err
	}
	switch {
	case own:
	case uploadSource.MatchString(source):
	case registrySource.MatchString(source), recipeSource.MatchString(source):
		operator = true // it makes a node fetch or run something
	default:
		return nil, awsapi.InvalidParameterValue("DiskContainer.1.Url '%s' is none of upload:sha256:DIGEST, docker://REGISTRY/NAME:TAG and bake:RECIPE", source)
	}
	if deref(req.Architecture) != "" && recipeSource.MatchString(source) {
		return nil, awsapi.InvalidCombination("A recipe names its architecture itself, such as bake:debian-12-arm64; Architecture is for other sources")
	}
	specs, err := tagsFor(req.TagSpecifications, "import-image-task")
	if err != nil {
		return nil, err
	}
	tags := specs["import-image-task"]
	name := cmp.Or(tags["Name"], deref(req.Description), deref(req.DiskContainers[0].Description))
	if err := validImageName(name); err != nil {
		return nil, err
	}
	t := &cloud.ImportTask{ID: newID[cloud.ImportTaskID](s), Account: call.Account, Source: source, Name: name, Description: deref(req.Description),
		TaskTags: tags, State: cloud.ImportActive, Message: "pending", Created: call.Now}
	if err := importedAs(t, req); err != nil {
		return nil, err
	}
	hash := awsapi.RequestHash(req)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if token := deref(req.ClientToken); token != "" {
			done, err := replay(tx, call, "ImportImage", token, hash)
			if err != nil {
				return err
			}
			if old, ok := store.Get(tx, store.ImportTasks, cloud.ImportTaskID(done)); ok {
				t = old
				return nil
			}
			remember(tx, call, "ImportImage", token, hash, string(t.ID))
		}
		if region, ok := store.Region(tx); operator && (!ok || region.Root != call.Account) {
			return awsapi.Errorf("UnauthorizedOperation", "Only the operator's account may import from %s.", source)
		}
		if own {
			img, err := registry.FindImage(tx, call.Account, pushed.repository, pushed.reference)
			if err != nil {
				return awsapi.InvalidParameterValue("DiskContainer.1.Url: %v", err)
			}
			t.Source = pushed.source(img.Digest)
		}
		if _, taken := store.Get(tx, store.Claims, store.NameClaim("image", call.Account, name)); taken {
			return awsapi.Errorf("InvalidAMIName.Duplicate", "AMI name %s is already in use by another AMI", name)
		}
		active := 0
		for _, other := range store.ListBy(tx.View(), store.ImportTasksByAccount, call.Account) {
			if other.State == cloud.ImportActive {
				active++
			}
		}
		if active >= maxActiveImports {
			return awsapi.Errorf("ResourceCountLimitExceeded", "%d imports are active; wait for one to end.", active)
		}
		store.Put(tx, store.ImportTasks, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := importShape(t)
	return &ec2.ImportImageResult{Architecture: shape.Architecture, ImportTaskId: shape.ImportTaskId, Status: shape.Status, StatusMessage: shape.StatusMessage, Progress: shape.Progress,
		Description: shape.Description, Tags: shape.Tags, SnapshotDetails: shape.SnapshotDetails}, nil
}

// diskFormats are those of whole disks, by the words that DiskContainer.Format has for them.
var diskFormats = []string{"raw", "vmdk", "qcow2", "vdi"}

// importedAs takes over what a request says of the image: its architecture, and what has a meaning for whole disks only.
func importedAs(t *cloud.ImportTask, req *ec2.ImportImageRequest) error {
	format := deref(req.DiskContainers[0].Format)
	switch word := strings.ToLower(format); {
	case format == "":
	case slices.Contains(diskFormats, word):
		t.Format = word
	case slices.Contains([]string{"ova", "vhd", "vhdx"}, word):
		return awsapi.Unsupported("The format %s is not supported by this cloud: %s are.", format, strings.Join(diskFormats, ", "))
	default:
		return awsapi.InvalidParameterValue("Invalid value '%.100s' for DiskContainer.1.Format. Expecting one of %s", format, strings.Join(diskFormats, ", "))
	}
	switch t.Architecture = deref(req.Architecture); t.Architecture {
	case "", ec2.ArchitectureValuesX8664, ec2.ArchitectureValuesArm64:
	default:
		return awsapi.Unsupported("The architecture %.100s is not supported by this cloud: x86_64 and arm64 are.", t.Architecture)
	}
	switch mode := deref(req.BootMode); mode {
	case "":
	case ec2.BootModeValuesLegacyBios:
		t.Firmware = cloud.FirmwareBIOS
	case ec2.BootModeValuesUefi:
		t.Firmware = cloud.FirmwareUEFI
	default:
		return awsapi.Unsupported("The value %s of BootMode is not supported by this cloud: choose legacy-bios or uefi.", mode)
	}
	switch devices := t.TaskTags[cloud.TagDevices]; devices {
	case "":
	case string(cloud.DevicesEmulated):
		t.Devices = cloud.DevicesEmulated
		t.Tags = cloud.Tags{cloud.TagDevices: devices}
	default:
		return awsapi.InvalidParameterValue("The tag %s has the value '%.100s'; %s is the only one", cloud.TagDevices, devices, cloud.DevicesEmulated)
	}
	switch {
	case t.OfDisk() && !uploadSource.MatchString(t.Source):
		return awsapi.InvalidCombination("DiskContainer.1.Format, BootMode and the tag %s are for whole disks, which are uploaded; %s is none", cloud.TagDevices, t.Source)
	case t.Architecture == ec2.ArchitectureValuesArm64 && (t.Firmware == cloud.FirmwareBIOS || t.Devices == cloud.DevicesEmulated):
		return awsapi.InvalidCombination("The boot mode legacy-bios and emulated devices are not for the architecture arm64")
	}
	return nil
}

// importShape is a task as EC2 shows it. A failed import is "deleted", with the reason as its message.
func importShape(t *cloud.ImportTask) ec2.ImportImageTask {
	out := ec2.ImportImageTask{ImportTaskId: text(t.ID), Status: text(t.State), StatusMessage: optional(t.Message), Description: optional(t.Description),
		ImageId: text(t.Image), Architecture: optional(t.Architecture), BootMode: optional(t.Firmware.BootMode()), Tags: tagList(t.TaskTags), SnapshotDetails: []ec2.SnapshotDetail{}}
	switch t.State {
	case cloud.ImportActive:
		out.Progress = new(strconv.Itoa(t.Progress))
	case cloud.ImportFailed:
		out.Status = text(cloud.ImportDeleted)
	}
	return out
}

func (s *Service) describeImportImageTasks(_ context.Context, call *awsapi.Call, req *ec2.DescribeImportImageTasksRequest) (*ec2.DescribeImportImageTasksResult, error) {
	if err := pageBounds(req.MaxResults, 1, 1000, req.ImportTaskIds, "importTaskIds"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list := slices.Clone(store.ListBy(view, store.ImportTasksByAccount, call.Account))
	if len(req.ImportTaskIds) > 0 {
		var err error
		if list, err = lookupAll(view, store.ImportTasks, ownerOfImport, kindImport, call.Account, req.ImportTaskIds); err != nil {
			return nil, err
		}
	}
	pass, err := awsapi.FilterSet[*cloud.ImportTask]{Tags: func(t *cloud.ImportTask) map[string]string { return t.TaskTags }, Values: map[string]func(*cloud.ImportTask) []string{
		"task-state": func(t *cloud.ImportTask) []string { return []string{*importShape(t).Status} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(t *cloud.ImportTask) bool { return !pass(t) })
	page, err := awsapi.Paginate(list, func(t *cloud.ImportTask) string { return string(t.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeImportImageTasksResult{NextToken: page.Next, ImportImageTasks: []ec2.ImportImageTask{}}
	for _, t := range page.Items {
		out.ImportImageTasks = append(out.ImportImageTasks, importShape(t))
	}
	return out, nil
}

func (s *Service) cancelImportTask(ctx context.Context, call *awsapi.Call, req *ec2.CancelImportTaskRequest) (*ec2.CancelImportTaskResult, error) {
	out := &ec2.CancelImportTaskResult{ImportTaskId: req.ImportTaskId}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		t, err := lookup(tx, store.ImportTasks, ownerOfImport, kindImport, call.Account, deref(req.ImportTaskId))
		if err != nil {
			return err
		}
		if t.State != cloud.ImportActive && t.State != cloud.ImportDeleting {
			return awsapi.Errorf("IncorrectState", "The import %s has ended.", t.ID)
		}
		out.PreviousState = text(t.State)
		if t.State = cloud.ImportDeleting; t.Node == "" {
			t.State, t.Message, t.Ended = cloud.ImportDeleted, "cancelled", call.Now
		}
		if reason := deref(req.CancelReason); reason != "" {
			t.Message = reason
		}
		out.State = text(t.State)
		store.Put(tx, store.ImportTasks, t)
		return nil
	})
	return out, err
}
