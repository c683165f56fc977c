package law

import (
	"go/ast"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// order is the direction of imports, the lowest first: a package imports only
// what stands on a lower line. One that is not in it does not belong anywhere.
func order() [][]string {
	return [][]string{
		{"internal/diag", "internal/version", "internal/systemdkeys", "internal/credential/rule",
			"internal/tsc", "internal/secret", "internal/process", "internal/console", "internal/control/*", "internal/ssh", "internal/notify", "internal/vsock", "internal/shim/*", "internal/initrd/cpio", "internal/initrd/decompress", "internal/nixsource", "internal/nixstore/sqlite"},
		{"internal/host", "internal/hostfiles", "internal/netdev", "internal/state", "internal/systemd", "internal/unitfile", "internal/source", "internal/credential", "internal/shim", "internal/initrd", "internal/initrd/kernel", "internal/sshagent", "internal/microvmnix", "internal/nixstore"},
		{"internal/layer", "internal/inspect"},
		{"internal/spec"},
		{"internal/plan"}, // what a driver fills
		{"internal/driver", "internal/devices"},
		{"internal/driver/drivertest", "internal/driver/*"},
		{"internal/driver/all", "internal/share"},
		{"internal/pipeline", "internal/emit", "internal/preflight", "internal/clash", "internal/adopt"},
		{"internal/privileged"},
		{"internal/run", "internal/generator", "internal/inventory", "internal/explain"},
		{"internal/compare"},
		{"internal/verify", "internal/apply", "internal/clean", "internal/diagnose"},
		{"internal/cli"},
		{"cmd/*", "internal/gen", "internal/systemdkeys/gen"},
		{"internal/driver/*/fake", "internal/driver/*/conformance", "internal/testkit/*", "test/*"},
	}
}

// rank returns the line of order on which a package stands; an exact name goes
// before a pattern, and a longer pattern before a shorter one.
func rank(dir string) (int, bool) {
	best, line := "", -1
	exact := func(pattern string) bool { return !strings.Contains(pattern, "*") }
	for i, patterns := range order() {
		for _, pattern := range patterns {
			if !matches(pattern, dir) {
				continue
			}
			if better := exact(pattern) || !exact(best) && len(pattern) > len(best); line < 0 || better {
				best, line = pattern, i
			}
		}
	}
	return line, line >= 0
}

// folder is the first two elements of a path: test/shim of test/shim/probe.
func folder(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func TestDirection(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue // a test may look from outside
		}
		own, ok := rank(f.dir)
		if !ok {
			t.Errorf("%s: the package has no place in the order of imports", f.path)
			continue
		}
		for _, imported := range f.imports() {
			if !strings.HasPrefix(imported, "internal/") && !strings.HasPrefix(imported, "test/") && !strings.HasPrefix(imported, "cmd/") {
				continue
			}
			other, ok := rank(imported)
			// A kit, and a folder of tests, may have more than one program.
			kit := matches("internal/testkit/*", imported) || matches("internal/driver/*/fake", imported) || folder(imported) == folder(f.dir)
			if same := own == other && own == len(order())-1 && kit; ok && other >= own && !same {
				t.Errorf("%s imports %s, which stands to its right (docs/architecture.md)", f.path, imported)
			}
		}
	}
}

// permits says who may import what has effects, or belongs to one place. All
// others may not, except that tests and what is for them alone may do anything.
func permits() map[string]exceptions {
	const (
		edges = "an edge: it reads or changes the machine"
		gen   = "writes what follows from the tables"
	)
	return map[string]exceptions{
		"os": {
			"internal/ssh":    "the ssh client as a child, with our streams",
			"internal/source": "reads the files of a VM", "internal/host": "reads facts about the machine", "internal/hostfiles": "reads facts about the machine", "internal/devices": "reads facts about the machine", "internal/generator": "writes units", "internal/inspect": "looks into files, and keeps what it saw",
			"internal/preflight": "asks whether a disk is there", "internal/credential": "reads sources",
			"internal/secret": "sealed memory is a file", "internal/process": edges, "internal/console": "the operator's terminal",
			"internal/control/qmp": "the inherited end of a socket pair", "internal/control/httpapi": "the socket of an API", "internal/vsock": "is there a vsock, and its device", "internal/notify": "deadlines of a connection", "internal/run": edges, "internal/state": edges, "internal/systemd": "is there a systemd, and who asks", "internal/inventory": "which plan a process runs", "internal/verify": "units, processes and what they execute", "internal/apply": "units that were loaded", "internal/privileged": edges, "internal/netdev": edges, "internal/share": edges, "internal/clean": edges, "internal/nixstore": "reads a host's store, wherever it is mounted", "internal/cli": "streams, environment, plans",
			"internal/gen": gen, "internal/systemdkeys/gen": gen, "cmd/*": "the process itself",
		},
		"os/exec": {
			"internal/ssh":   "finds the ssh client",
			"internal/share": "the version of virtiofsd",
			"internal/host":  "facts that only a program tells", "internal/credential": "systemd-creds decrypts",
			"internal/run":             "the hypervisor's version, and the tool that makes qcow2 disks",
			"internal/systemdkeys/gen": "asks git for systemd's releases",
		},
		"net": {
			"internal/console": "the guest's serial port", "internal/control/qmp": "the control socket", "internal/control/httpapi": "the socket of an API",
			"internal/vsock": "the guest's socket", "internal/notify": "what a guest says over it", "internal/run": "hands them on", "internal/systemd": "the bus",
			"internal/netdev": "MAC addresses", "internal/privileged": "MAC addresses",
		},
		"syscall": {
			"internal/ssh":     "takes the place of this process, and hands a socket on",
			"internal/console": edges, "internal/credential": "owner of a file", "internal/inspect": "identity of a file", "internal/control/qmp": edges, "internal/control/httpapi": edges, "internal/vsock": edges, "internal/notify": edges, "internal/process": edges,
			"internal/run": edges, "internal/state": "locks and owners", "internal/verify": "owners of sockets", "internal/systemd": "errors of a socket", "internal/cli": "signals", "internal/inventory": "names of signals", "internal/clean": "what a file takes on the disk", "internal/nixstore": "owners of files, and locks of a database", "internal/source": "reads without hanging at a FIFO", "internal/generator": "few calls for many units", "internal/shim": "the first program of a guest",
		},
		"golang.org/x/sys/unix": {
			"internal/ssh":  "hands a socket on",
			"internal/host": "may this user execute it", "internal/credential": edges, "internal/secret": edges,
			"internal/process": edges, "internal/console": edges, "internal/control/httpapi": edges, "internal/vsock": edges, "internal/notify": edges, "internal/run": edges, "internal/privileged": edges, "internal/netdev": edges, "internal/share": edges, "internal/tsc": "pins a thread while it measures",
		},
		"path/filepath": {
			"internal/source": edges, "internal/host": edges, "internal/hostfiles": edges, "internal/devices": edges, "internal/generator": edges, "internal/inspect": edges, "internal/preflight": "where a disk lies on this host", "internal/plan": "IsLocal, which looks at the text alone", "internal/credential": edges,
			"internal/process": edges, "internal/run": edges, "internal/state": edges, "internal/inventory": "directories of runs", "internal/verify": edges, "internal/apply": "where units lie", "internal/privileged": edges, "internal/share": edges, "internal/clean": edges, "internal/nixstore": "where a tree lies on this machine", "internal/cli": "absolute paths for units", "internal/gen": gen, "internal/systemdkeys/gen": gen,
		},
		"testing": {
			"internal/driver/drivertest": "the suite that every driver keeps",
		},
		"unsafe": {
			"internal/secret": "memory outside the heap", "internal/shim": "the arguments without package os",
			"internal/vsock": "a call to the device of the kernel's vsock for which there is no other way",
		},
		"internal/driver/all": {
			"internal/cli": "where the list of hypervisors meets a user", "cmd/ampoule-generator": "where it meets systemd",
		},
		"internal/source": {
			"internal/pipeline": "the one chain from files to a plan", "internal/cli": "names for completion, the search path", "internal/generator": "the names of all VMs", "internal/inventory": "the names of all VMs", "internal/gen": "the search path for the manual",
		},
		"internal/unitfile": {
			"internal/adopt": "writes a file, and reads units", "internal/explain": "words of command lines", "internal/compare": "how a line is shown", "internal/verify": "what is loaded against what would be", "internal/diagnose": "units of a host that systemd need not have loaded", "internal/layer": "what it orders", "internal/emit": "writes units", "internal/spec": "words and escapes in values", "internal/pipeline": "the one chain from files to a plan",
			"internal/driver/drivertest": "writes VMs as files",
		},
		"internal/secret": {
			"internal/credential": "values stay in it from the first byte", "internal/run": "hands sealed memory to the hypervisor", "internal/sshagent": "the seed of a key", "internal/diagnose": "looks for a value in texts where it should not be",
		},
		"mvdan.cc/sh/v3/syntax":                       {"internal/microvmnix": "run scripts are read, and never run"},
		"github.com/spf13/cobra":                      {"internal/cli": "commands", "internal/gen": "manuals of the commands"},
		"github.com/spf13/cobra/doc":                  {"internal/gen": "manuals of the commands"},
		"golang.org/x/term":                           {"internal/console": "raw mode", "internal/run": "gives the terminal back as a runner found it", "internal/cli": "is a person reading"},
		"github.com/coreos/go-systemd/v22/daemon":     {"internal/run": "tells the service manager", "internal/share": "tells the service manager"},
		"github.com/coreos/go-systemd/v22/activation": {"internal/cli": "takes what the service manager hands over"},
		"github.com/vishvananda/netlink":              {"internal/netdev": "asks the kernel for its interfaces, and makes some"},
		"github.com/godbus/dbus/v5":                   {"internal/systemd": "asks the service manager"},
		"github.com/rogpeppe/go-internal/testscript":  {},
		"log": {}, "log/slog": {"internal/secret": "says how a secret is logged: not at all"}, "net/http": {}, "plugin": {}, "C": {}, "os/user": {}, "math/rand": {}, "io/ioutil": {},
	}
}

func TestPermits(t *testing.T) {
	table := permits()
	used := map[string]map[string]bool{}
	for name := range table {
		used[name] = map[string]bool{}
	}
	for _, f := range files(t) {
		if f.test || forTests(f.dir) {
			continue
		}
		for _, imported := range f.imports() {
			permit, limited := table[imported]
			if !limited {
				continue
			}
			allowed := false
			for who := range permit {
				if matches(who, f.dir) {
					allowed = true
					permit.allow(used[imported], who)
				}
			}
			if !allowed {
				t.Errorf("%s imports %s, which is for: %s", f.path, imported, strings.Join(names(permit), ", "))
			}
		}
	}
	for imported, permit := range table {
		for who, reason := range permit {
			if !used[imported][who] {
				t.Errorf("%s need not be allowed to import %s (%s) any more", who, imported, reason)
			}
		}
	}
}

func names(e exceptions) []string {
	if len(e) == 0 {
		return []string{"nobody"}
	}
	out := make([]string, 0, len(e))
	for name := range e {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// TestClock: what is pure by its imports does not look at the clock either.
func TestClock(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	pure := []string{"internal/diag", "internal/unitfile", "internal/layer", "internal/spec", "internal/plan", "internal/driver", "internal/driver/*",
		"internal/pipeline", "internal/emit", "internal/explain", "internal/compare", "internal/adopt", "internal/microvmnix", "internal/nixsource", "internal/nixstore/sqlite", "internal/credential/rule", "internal/systemdkeys", "internal/version"}
	seen := 0
	for _, f := range files(t) {
		if f.test || forTests(f.dir) || !slices.ContainsFunc(pure, func(p string) bool { return matches(p, f.dir) }) {
			continue
		}
		seen++
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(clock, sel.Sel.Name) {
					t.Errorf("%s: time.%s in a package that is a function of its arguments", f.at(sel), sel.Sel.Name)
				}
			}
			return true
		})
	}
	if seen < 60 {
		t.Errorf("only %d files are pure", seen)
	}
}

// TestOneChain: only pipeline knows all links of the chain.
func TestOneChain(t *testing.T) {
	links := map[string]map[string]bool{}
	for _, f := range files(t) {
		if f.test {
			continue
		}
		if links[f.dir] == nil {
			links[f.dir] = map[string]bool{}
		}
		for _, imported := range f.imports() {
			links[f.dir][imported] = true
		}
	}
	for dir, has := range links {
		all := has["internal/source"] && has["internal/layer"] && has["internal/spec"] && has["internal/driver"]
		if all != (dir == "internal/pipeline") {
			t.Errorf("%s imports all of source, layer, spec and driver: %v", dir, all)
		}
	}
}

// TestShipped: the programs are not linked with what is for tests.
func TestShipped(t *testing.T) {
	out, err := exec.Command("go", "list", "-C", root, "-deps", "./cmd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"internal/run") {
		t.Fatalf("these are not the programs: %v", deps)
	}
	for _, dep := range deps {
		ours, isOurs := strings.CutPrefix(dep, module)
		if dep == "testing" || strings.HasPrefix(dep, "testing/") || isOurs && (forTests(ours) || ours == "internal/driver/drivertest") {
			t.Errorf("the programs are linked with %s", dep)
		}
	}
}
