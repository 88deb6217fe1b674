package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnInstanceOfAnotherOnesImageSharesNeitherMachineIDNorHostKeys(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"machine-id": "old\n", "ssh_host_rsa_key": "private", "ssh_host_rsa_key.pub": "public", "sshd_config": "mine"} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := renewer{machineID: at("machine-id"), dbusID: at("none"), keys: dir, keygen: []string{"/bin/sh", "-c", "echo own >" + at("ssh_host_rsa_key")}}
	var noted []string
	note := func(what string, err error) {
		if err != nil {
			noted = append(noted, what+": "+err.Error())
		}
	}
	r.renew("i-0123456789abcdef0", note)
	read := func(name string) string {
		b, err := os.ReadFile(at(name))
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
	if id := read("machine-id"); len(id) != 32 || len(noted) > 0 {
		t.Errorf("the machine id is %q; %v", id, noted)
	}
	if read("ssh_host_rsa_key") != "own" || read("sshd_config") != "mine" {
		t.Errorf("the key is %q, the configuration %q", read("ssh_host_rsa_key"), read("sshd_config"))
	}
	for _, gone := range []string{"none", "ssh_host_rsa_key.pub"} {
		if _, err := os.Stat(at(gone)); err == nil {
			t.Errorf("%s is there", gone)
		}
	}
	// One without any stays so.
	r = renewer{machineID: at("empty"), dbusID: at("none"), keys: at("nowhere"), keygen: []string{"/bin/false"}}
	if err := os.WriteFile(at("empty"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r.renew("i-0123456789abcdef0", note); read("empty") != "" || len(noted) > 0 {
		t.Errorf("the machine id is %q; %v", read("empty"), noted)
	}
}
