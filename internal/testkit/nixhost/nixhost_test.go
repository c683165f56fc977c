package nixhost

import (
	"crypto/sha1" //nolint:gosec // as nix-hash was asked for
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestHashes: what Nix 2.8's nix-hash says of the same.
func TestHashes(t *testing.T) {
	sum, err := hex.DecodeString("0123456789abcdef0123456789abcdef01234567")
	if err != nil {
		t.Fatal(err)
	}
	if got := base32(sum[:sha1.Size]); got != "cx2j60ggrnmqjrs54c0yzkdbi5kla8q1" {
		t.Error(got)
	}
	hello := sha256.Sum256([]byte("hello"))
	if got := base32(hello[:]); got != "094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic" {
		t.Error(got)
	}
	for want, files := range map[string]Files{
		"6cabc9108d13e060677e3a752cd7b8053c88ba46f010d7ef3e000b9b6ffaffa5": {"a": Text("hello\n"), "sub/run": Program("#!/bin/sh\n"), "sub/link": LinkTo("../a")},
		"1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13": {"": Text("hello\n")},
	} {
		got := sha256.Sum256(archive(files))
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("%v: %x", files, got)
		}
	}
}

// TestReferences: the database has what Nix finds in a path, and all that a system
// needs is behind it.
func TestReferences(t *testing.T) {
	h := New(t)
	vm := h.VM("test-vm")
	system := h.Switch()
	root := h.Finish()
	query := func(q string) string {
		out, err := exec.Command("sqlite3", root+databaseFile, q).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	closure := query(`with recursive c(id) as (select id from ValidPaths where path='` + system + `' union select reference from Refs join c on referrer=c.id) select path from ValidPaths where id in c`)
	runner, _ := h.runner(vm)
	for _, path := range []string{runner, h.Readlink(runner + "/bin/microvm-run"), h.Readlink(runner + "/share/microvm/system")} {
		if !strings.Contains("\n"+closure+"\n", "\n"+path+"\n") {
			t.Errorf("%s is not in the closure of the system:\n%s", path, closure)
		}
	}
	if n := query("select count(*) from Refs where reference not in (select id from ValidPaths)"); n != "0" {
		t.Errorf("%s references lead nowhere", n)
	}
	for path := range h.store.paths {
		if _, err := os.Lstat(root + path); err != nil {
			t.Error(err)
		}
	}
	if got := h.Readlink(h.StateDir + "/test-vm/current"); got != runner {
		t.Errorf("installed is %s, and not %s", got, runner)
	}
}

// TestFill: what fills a store is in its directory by the names that the database has.
func TestFill(t *testing.T) {
	h := New(t)
	h.VM("test-vm")
	h.Switch()
	root := h.Finish()
	h.Fill(50, 3)
	out, err := exec.Command("sqlite3", root+databaseFile, "select path from ValidPaths; select 'refs ' || count(*) from Refs r join ValidPaths p on p.id = r.referrer where p.path like '%-package-%'").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if !strings.HasPrefix(path, "/") {
			if path == "refs 0" {
				t.Error("nothing refers to anything")
			}
			continue
		}
		if strings.Contains(path, "-package-") {
			found++
		}
		if _, err := os.Lstat(root + path); err != nil {
			t.Error(err)
		}
	}
	if found != 50 {
		t.Errorf("%d paths were filled in", found)
	}
}
