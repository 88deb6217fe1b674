package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestABillIsPrintedByWhateverIsAsked(t *testing.T) {
	c := newTestCloud(t)
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC)
	c.update(func(tx *store.Tx) {
		for n, u := range []cloud.Usage{
			{Charge: cloud.Charge{Kind: cloud.UsageInstance, Type: "t3.micro", Isolation: cloud.IsolationVM}, Resource: "i-1", Tags: cloud.Tags{"team": "red"}},
			{Charge: cloud.Charge{Kind: cloud.UsageInstance, Type: "t3.micro", Isolation: cloud.IsolationContainer}, Resource: "i-2"},
			{Charge: cloud.Charge{Kind: cloud.UsageAddress}, Resource: "eipalloc-1"},
		} {
			u.Account, u.Number, u.Start, u.End = c.account, 1, month, month.Add(time.Duration(10*(n+1))*time.Hour)
			store.Put(tx, store.Usages, &u)
		}
	})
	flag := "--month=" + month.Format("2006-01")
	for by, want := range map[string][]string{
		"account":  {string(c.account), "0.358000"},
		"service":  {"Amazon Elastic Compute Cloud - Compute", "0.208000", "Amazon Virtual Private Cloud", "0.150000"},
		"type":     {"BoxUsage:t3.micro", "10.000000", "0.104000", "ContainerUsage:t3.micro", "20.000000", "PublicIPv4:Address", "0.150000"},
		"instance": {"i-1", "0.104000", "i-2", "eipalloc-1"},
		"tag:team": {"team=red", "0.104000", "team (none)", "0.254000"},
	} {
		out, _, err := c.nacre("bill", flag, "--by", by)
		for _, text := range append(want, month.Format("2006-01"), "0.358000") {
			if err != nil || !strings.Contains(out, text) {
				t.Errorf("by %s, %q is not in it: %v\n%s", by, text, err, out)
			}
		}
		if strings.Contains(out, "so far") {
			t.Errorf("a month that is over is told so far:\n%s", out)
		}
	}
	var b bill
	out, _, err := c.nacre("bill", "--forecast", "--output", "json")
	if err != nil || json.Unmarshal([]byte(out), &b) != nil || !b.Estimated || b.Forecast != "0.000000" || b.Total != "0.000000" {
		t.Errorf("this month: %v\n%s", err, out)
	}
	for _, wrong := range [][]string{{"bill", "--by", "colour"}, {"bill", "--month", "May"}, {"bill", flag, "--forecast"}} {
		if out, _, err := c.nacre(wrong...); err == nil {
			t.Errorf("%v is answered %s", wrong, out)
		}
	}
}

func TestPricesAreShownEditedAndSet(t *testing.T) {
	c := newTestCloud(t)
	out, _, err := c.nacre("prices", "show")
	if err != nil || !strings.Contains(out, `"t3.micro": "0.0104"`) {
		t.Fatalf("%v\n%s", err, out)
	}
	today := time.Now().UTC().Format(time.DateOnly)
	edited := strings.Replace(strings.Replace(out, `"t3.micro": "0.0104"`, `"t3.micro": "0.02"`, 1), "2006-08-24", today, 1)
	file := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := c.nacre("prices", "set", file); err != nil || !strings.Contains(out, today) {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, _, err := c.nacre("prices", "show"); err != nil || !strings.Contains(out, `"t3.micro": "0.02"`) {
		t.Errorf("%v\n%s", err, out)
	}
	for name, text := range map[string]string{"no JSON": "price: 1", "a word too many": strings.Replace(edited, "Source", "Sauce", 1), "no day": `{}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.nacre("prices", "set", file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABillIsExportedInFOCUS(t *testing.T) {
	c := newTestCloud(t)
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC)
	c.update(func(tx *store.Tx) {
		store.Put(tx, store.Usages, &cloud.Usage{Charge: cloud.Charge{Kind: cloud.UsageVolume, Type: "gp3", GiB: 8, IOPS: 4000}, Resource: "vol-1", Account: c.account, Number: 1,
			Start: month.Add(time.Hour), End: month.Add(50 * time.Hour), Tags: cloud.Tags{"team": "red"}})
	})
	flag := "--month=" + month.Format("2006-01")
	out, _, err := c.nacre("bill", "export", flag)
	lines, broken := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || broken != nil || len(lines) != 1+2*3 { // storage and operations, of three days
		t.Fatalf("%v, %v\n%s", err, broken, out)
	}
	cost, sum := slices.Index(lines[0], "BilledCost"), new(big.Rat)
	for _, l := range lines[1:] {
		x, _ := new(big.Rat).SetString(l[cost])
		sum.Add(sum, x)
	}
	if bill, _, err := c.nacre("bill", flag); err != nil || !strings.Contains(bill, sum.FloatString(6)) {
		t.Errorf("the export adds up to %s, and the bill is (%v)\n%s", sum.FloatString(6), err, bill)
	}
	file := filepath.Join(t.TempDir(), "bill.parquet")
	if _, said, err := c.nacre("bill", "export", flag, "--format", "parquet", "--file", file); err != nil || !strings.Contains(said, "6 charges") {
		t.Fatal(said, err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(b, []byte("PAR1")) || !bytes.HasSuffix(b, []byte("PAR1")) {
		t.Errorf("the file is no Parquet: %v", err)
	}
	for _, wrong := range [][]string{{"--format", "xlsx"}, {"--month", "May"}, {"--file", filepath.Join(t.TempDir(), "no", "where")}} {
		if out, _, err := c.nacre(append([]string{"bill", "export"}, wrong...)...); err == nil {
			t.Errorf("%v is answered %s", wrong, out)
		}
	}
}
