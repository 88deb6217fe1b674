package ec2

import (
	"cmp"
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerKeyPairs(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateKeyPair, s.createKeyPair, awsapi.Honours("KeyName", "KeyType", "KeyFormat", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionImportKeyPair, s.importKeyPair, awsapi.Honours("KeyName", "PublicKeyMaterial", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDescribeKeyPairs, s.describeKeyPairs, awsapi.Honours("Filters", "IncludePublicKey", "KeyNames", "KeyPairIds"))
	awsapi.Handle(r, ec2.ActionDeleteKeyPair, s.deleteKeyPair, awsapi.Honours("KeyName", "KeyPairId"))
}

const maxKeyName = 255

func (s *Service) createKeyPair(ctx context.Context, call *awsapi.Call, req *ec2.CreateKeyPairRequest) (*ec2.KeyPair, error) {
	if deref(req.KeyFormat) == "ppk" {
		return nil, awsapi.Unsupported("The key format ppk is not supported by this cloud; puttygen converts pem.")
	}
	material, private, err := generateKey(cmp.Or(deref(req.KeyType), keyTypeRSA), s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	k, err := s.addKeyPair(ctx, call, deref(req.KeyName), material, req.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2.KeyPair{KeyName: &k.Name, KeyPairId: text(k.ID), KeyFingerprint: &k.Fingerprint, KeyMaterial: &private, Tags: tagList(k.Tags)}, nil
}

func (s *Service) importKeyPair(ctx context.Context, call *awsapi.Call, req *ec2.ImportKeyPairRequest) (*ec2.ImportKeyPairResult, error) {
	material, err := parsePublicKey(req.PublicKeyMaterial)
	if err != nil {
		return nil, err
	}
	k, err := s.addKeyPair(ctx, call, deref(req.KeyName), material, req.TagSpecifications)
	if err != nil {
		return nil, err
	}
	return &ec2.ImportKeyPairResult{KeyName: &k.Name, KeyPairId: text(k.ID), KeyFingerprint: &k.Fingerprint, Tags: tagList(k.Tags)}, nil
}

func (s *Service) addKeyPair(ctx context.Context, call *awsapi.Call, name string, material keyMaterial, specs []ec2.TagSpecification) (*cloud.KeyPair, error) {
	if name == "" || len(name) > maxKeyName {
		return nil, awsapi.InvalidParameterValue("A key pair's name has 1 to %d characters", maxKeyName)
	}
	tags, err := tagsFor(specs, "key-pair")
	if err != nil {
		return nil, err
	}
	k := &cloud.KeyPair{ID: newID[cloud.KeyPairID](s), Account: call.Account, Name: name, Type: material.kind, PublicKey: material.authorized,
		Fingerprint: material.fingerprint, Tags: tags["key-pair"], Created: call.Now}
	return k, s.update(ctx, call, func(tx *store.Tx) error {
		if err := store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim("keypair", call.Account, name), Owner: string(k.ID)}); err != nil {
			return awsapi.Errorf("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", name)
		}
		store.Put(tx, store.KeyPairs, k)
		return nil
	})
}

func (s *Service) describeKeyPairs(_ context.Context, call *awsapi.Call, req *ec2.DescribeKeyPairsRequest) (*ec2.DescribeKeyPairsResult, error) {
	list := slices.Clone(store.ListBy(s.store.View(), store.KeyPairsByAccount, call.Account))
	for _, name := range req.KeyNames {
		if !slices.ContainsFunc(list, func(k *cloud.KeyPair) bool { return k.Name == name }) {
			return nil, awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", name)
		}
	}
	for _, id := range req.KeyPairIds {
		if !slices.ContainsFunc(list, func(k *cloud.KeyPair) bool { return string(k.ID) == id }) {
			return nil, awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair ID '%s' does not exist", id)
		}
	}
	pass, err := awsapi.FilterSet[*cloud.KeyPair]{Tags: func(k *cloud.KeyPair) map[string]string { return k.Tags }, Values: map[string]func(*cloud.KeyPair) []string{
		"key-pair-id": func(k *cloud.KeyPair) []string { return []string{string(k.ID)} }, "fingerprint": func(k *cloud.KeyPair) []string { return []string{k.Fingerprint} },
		"key-name": func(k *cloud.KeyPair) []string { return []string{k.Name} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeKeyPairsResult{KeyPairs: []ec2.KeyPairInfo{}}
	for _, k := range list {
		named := len(req.KeyNames)+len(req.KeyPairIds) == 0 || slices.Contains(req.KeyNames, k.Name) || slices.Contains(req.KeyPairIds, string(k.ID))
		if !named || !pass(k) {
			continue
		}
		info := ec2.KeyPairInfo{KeyName: &k.Name, KeyPairId: text(k.ID), KeyFingerprint: &k.Fingerprint, KeyType: &k.Type, CreateTime: &k.Created, Tags: tagList(k.Tags)}
		if deref(req.IncludePublicKey) {
			info.PublicKey = new(k.PublicKey + " " + k.Name)
		}
		out.KeyPairs = append(out.KeyPairs, info)
	}
	return out, nil
}

// deleteKeyPair succeeds for a key pair that doesn't exist, as EC2 does.
func (s *Service) deleteKeyPair(ctx context.Context, call *awsapi.Call, req *ec2.DeleteKeyPairRequest) (*ec2.DeleteKeyPairResult, error) {
	name, id := deref(req.KeyName), deref(req.KeyPairId)
	if name == "" && id == "" {
		return nil, awsapi.MissingParameter("KeyName")
	}
	if name != "" && id != "" {
		return nil, awsapi.InvalidCombination("The parameters KeyName and KeyPairId cannot be used together")
	}
	out := &ec2.DeleteKeyPairResult{Return: new(true)}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.KeyPairId = nil
		for _, k := range store.ListBy(tx, store.KeyPairsByAccount, call.Account) {
			if k.Name == name || string(k.ID) == id {
				store.Delete(tx, store.KeyPairs, k.ID)
				store.Delete(tx, store.Claims, store.NameClaim("keypair", call.Account, k.Name))
				out.KeyPairId = text(k.ID)
			}
		}
		return nil
	})
	return out, err
}
