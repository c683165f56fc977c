package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// What is gathered by hand must be what systemd would have loaded. So a real
// systemd loads the sources of each case below for a service, and that service
// is this test program: it lists what it was given and gathers the same by
// hand, with the same privileges and files.

// agreeCase is the credential lines of one service. DIR is where its files are.
type agreeCase struct {
	name  string
	since int // version of systemd
	lines []string
}

var agreeCases = []agreeCase{
	{"files", 252, []string{"LoadCredential=binary:DIR/binary", "LoadCredential=empty:DIR/empty", "LoadCredential=link:DIR/link", "SetCredential=binary:unused"}},
	{"defaults", 252, []string{"LoadCredential=absent:DIR/absent", "SetCredential=absent:default", "SetCredential=alone:value", "LoadCredential=nowhere", "SetCredential=nowhere:default"}},
	{"directory", 252, []string{"LoadCredential=d:DIR/d"}},
	{"directory with default", 252, []string{"LoadCredential=d:DIR/d/sub", "SetCredential=d:default"}},
	{"empty directory", 252, []string{"LoadCredential=d:DIR/none", "SetCredential=d:default"}},
	{"stores", 252, []string{"LoadCredential=both", "LoadCredential=run", "LoadCredential=other:lib"}},
	{"encrypted", 252, []string{
		"LoadCredentialEncrypted=sealed:DIR/sealed", "LoadCredentialEncrypted=stored-sealed", "LoadCredentialEncrypted=dir:DIR/sealed.d", "LoadCredentialEncrypted=plainstore"}},
	{"sockets", 252, []string{"LoadCredential=one:DIR/socket", "LoadCredential=two.x:DIR/socket"}},
	{"names", 252, []string{"LoadCredential=...:DIR/binary", "LoadCredential=a=b,c:DIR/binary", "LoadCredential=@~*?[]:DIR/binary", "SetCredential=a=b[]:value"}},
	{"quotes", 252, []string{"LoadCredential=a'b:DIR/binary", `LoadCredential=a"b:DIR/"quoted"`, `LoadCredential=c:DIR/quo"te`, "SetCredential=a'c:value", "LoadCredential=t:DIR/ta\tb"}},
	{"import", 254, []string{"ImportCredential=net.*"}},
	{"import everything", 254, []string{"ImportCredential=*"}},
	{"import one", 254, []string{"ImportCredential=both", "ImportCredential=stored-sealed", "ImportCredential=nothing"}},
	{"import after load", 254, []string{"ImportCredential=net.*", "LoadCredential=net.a:DIR/binary", "SetCredential=net.b:unused", "SetCredential=net.z:used"}},
	{"import renamed", 257, []string{"ImportCredential=pl*:guest-"}},
	{"import one renamed", 257, []string{"ImportCredential=net.b:other"}},
	{"import encrypted renamed", 257, []string{"ImportCredential=orig.*:new."}},
}

// brokenCases are lines that a systemd of 255 or later loses on the way to its
// executor. That is why rule.UnitSafe refuses them.
var brokenCases = []agreeCase{
	{"blank in a name", 255, []string{"LoadCredential=a b:DIR/binary"}},
	{"blank in a set name", 255, []string{"SetCredential=a b:value"}},
	{"blank in a path", 255, []string{"LoadCredential=k:DIR/d/with blank"}},
	{"blank in an encrypted path", 255, []string{"LoadCredentialEncrypted=k:DIR/sealed with blank"}},
	{"backslash in a path", 255, []string{`LoadCredential=k:DIR/back\slash`}},
	{"blank in a pattern", 257, []string{"ImportCredential=a b*"}},
	{"blank in a new name", 257, []string{"ImportCredential=bl*:a b"}},
}

// agreed is what a service reports about its case.
type agreed struct {
	// Given is what systemd put into $CREDENTIALS_DIRECTORY, ByHand what
	// Gather read, Directory what Gather took from $CREDENTIALS_DIRECTORY.
	Given, ByHand, Directory map[string]string
	Problems                 []string
}

func TestAgreesWithSystemd(t *testing.T) {
	if number := os.Getenv("CREDENTIAL_TEST_CASE"); number != "" {
		reportCase(t, number)
		return
	}
	if path := os.Getenv("CREDENTIAL_TEST_SERVE"); path != "" {
		servePeerNames(t, path)
		return
	}
	need.All(t, need.Nspawn)
	if testing.Short() {
		t.Skip("it boots a systemd")
	}
	for _, release := range []struct {
		name    string
		version int
	}{{"bookworm", 252}, {"trixie", 257}} {
		t.Run(release.name, func(t *testing.T) {
			shared := prepareShared(t)
			bootRelease(t, release.name, shared)
			for i, c := range agreeCases {
				if c.since <= release.version {
					checkAgreement(t, shared, i, c)
				}
			}
			for i, c := range brokenCases {
				// The services of these are numbered on.
				got, err := readReport(shared, len(agreeCases)+i)
				agrees := err == nil && len(got.Given) > 0 && reflect.DeepEqual(got.Given, got.ByHand)
				if c.since <= release.version && agrees {
					t.Errorf("%s: systemd can do this by now", c.name)
				}
				if release.version < 255 && !strings.HasPrefix(c.lines[0], "Import") && !agrees {
					t.Errorf("%s: systemd could do this once: %+v, %v", c.name, got, err)
				}
			}
		})
	}
}

func checkAgreement(t *testing.T, shared string, number int, c agreeCase) {
	t.Helper()
	got, err := readReport(shared, number)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(shared, "log"))
		t.Errorf("%s: no report: %v\n%s", c.name, err, log)
		return
	}
	for _, p := range got.Problems {
		if !strings.Contains(p, "warning: ") && !strings.Contains(p, "note: ") {
			t.Errorf("%s: %s", c.name, p)
		}
	}
	if len(got.Given) == 0 {
		t.Errorf("%s: systemd gave nothing; the case tells nothing", c.name)
	}
	if !reflect.DeepEqual(got.Given, got.ByHand) {
		t.Errorf("%s: by hand\n  %q\nsystemd\n  %q", c.name, got.ByHand, got.Given)
	}
	if !reflect.DeepEqual(got.Given, got.Directory) {
		t.Errorf("%s: from $CREDENTIALS_DIRECTORY\n  %q\nsystemd\n  %q", c.name, got.Directory, got.Given)
	}
}

func readReport(shared string, number int) (got agreed, err error) {
	text, err := os.ReadFile(filepath.Join(shared, "out", fmt.Sprint(number)))
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(text, &got)
}

// reportCase is the service of one case, started by systemd.
func reportCase(t *testing.T, number string) {
	w := &world{t: t, dir: "/ampoule/data"}
	lines, err := os.ReadFile("/ampoule/cases/" + number)
	if err != nil {
		t.Fatal(err)
	}
	reqs := w.requests("unit", strings.Split(strings.TrimSpace(string(lines)), "\n")...)
	report := agreed{Given: map[string]string{}}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		report.Given[e.Name()] = fmt.Sprintf("%q", content)
	}
	gather := func(dir string) map[string]string {
		env := HostEnv("case-"+number+".service", dir)
		creds, list := Gather(context.Background(), reqs, env)
		defer Wipe(creds)
		got := map[string]string{}
		for _, c := range creds {
			if err := c.Value.Use(func(b []byte) error { got[c.Guest] = fmt.Sprintf("%q", bytes.Clone(b)); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range list {
			report.Problems = append(report.Problems, p.Error())
		}
		return got
	}
	report.ByHand, report.Directory = gather(""), gather(dir)
	out, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/ampoule/out/"+number, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// servePeerNames answers each connection with what the other side is called,
// without the part that is random: who asks by the wrong name gets another
// credential.
func servePeerNames(t *testing.T, path string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(c.RemoteAddr().String(), "/")
		_, _ = c.Write([]byte(name))
		_ = c.Close()
	}
}

// prepareShared writes everything that the booted system finds in /ampoule.
func prepareShared(t *testing.T) string {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.mode("", 0o755)
	w.file("data/binary", "a\x00b\n\xff,=%").file("data/empty", "").
		file("data/d/a", "1").file("data/d/sub/b", "2").file("data/d/sub/deep/c", "3").file("data/d/with blank", "4").file("data/d/old~", "5").file("data/ta\tb", "6").file(`data/back\slash`, "7").file(`data/quo"te`, "8").file(`data/"quoted"`, "9").
		file("data/d/.hidden", "no").file("data/d/.git/config", "no").mkdir("data/none/sub").mkdir("data/sealed.d").mkdir("out").mkdir("units").mkdir("cases")
	w.link("data/link", "/ampoule/data/binary")
	w.link("data/d/link", "/ampoule/data/binary")
	w.link("data/d/linked", "sub")
	w.fifo("data/d/fifo")
	cases := slices.Concat(agreeCases, brokenCases)
	for i, c := range cases {
		w.file(fmt.Sprintf("cases/%d", i), strings.Join(c.lines, "\n"))
		service := strings.ReplaceAll(strings.Join(c.lines, "\n"), "DIR", "/ampoule/data")
		w.file(fmt.Sprintf("units/case-%d.service", i), fmt.Sprintf(`[Service]
Type=oneshot
Environment=CREDENTIAL_TEST_CASE=%d
ExecStart=/ampoule/program -test.run=^TestAgreesWithSystemd$
%s
`, i, service))
	}
	w.file("units/collect.service", "[Service]\nType=oneshot\nExecStart=/bin/sh /ampoule/collect\nStandardOutput=file:/ampoule/log\nStandardError=inherit\n")
	var starts strings.Builder
	for i := range cases {
		if i == len(agreeCases)-1 { // nobody else could decrypt it
			starts.WriteString("seal /etc/credstore.encrypted/orig.k new.k 'sealed under the new name'\n")
		}
		fmt.Fprintf(&starts, "systemctl start case-%d.service || systemctl --no-pager status case-%d.service\n", i, i)
	}
	w.file("collect", `
put() { mkdir -p "$(dirname "$1")"; printf '%s' "$2" >"$1"; }
seal() { mkdir -p "$(dirname "$1")"; printf '%s' "$3" | systemd-creds encrypt --with-key=host --name="$2" - "$1"; }
put /etc/credstore/both etc; put /usr/lib/credstore/both lib; put /run/credstore/both run
put /run/credstore/run run; put /usr/lib/credstore/run lib; put /usr/lib/credstore/lib lib
put /etc/credstore/net.a 1; put /run/credstore/net.b 2; put /usr/lib/credstore/net.a hidden; put /etc/credstore/.hidden no
seal /ampoule/data/sealed sealed 'from a file'
seal '/ampoule/data/sealed with blank' k 'from a file'
put '/etc/credstore/a b c' 1; put /etc/credstore/blank 2
seal /ampoule/data/sealed.d/x dir_x 'from a directory'
seal /etc/credstore.encrypted/stored-sealed stored-sealed 'from a store'
seal /usr/lib/credstore.encrypted/net.c net.c 'sealed 3'
seal /etc/credstore.encrypted/net.a net.a 'hidden by the plain one'
seal /etc/credstore/plainstore plainstore 'sealed among the plain ones'
CREDENTIAL_TEST_SERVE=/ampoule/data/socket /ampoule/program -test.run='^TestAgreesWithSystemd$' &
while ! [ -S /ampoule/data/socket ]; do sleep 0.05; done
`+starts.String()+`
touch /ampoule/out/done
systemctl poweroff --no-block
`)
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("program"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return w.dir
}

// bootRelease boots a Debian release, which stays as it is, and waits for its
// end.
func bootRelease(t *testing.T, release, shared string) {
	t.Helper()
	root := releaseRoot(t, release)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no",
		"--machine=credential-"+fmt.Sprint(os.Getpid()), "--directory="+root, "--volatile=overlay",
		"--bind-ro="+shared+"/units:/etc/systemd/system", "--bind="+shared+":/ampoule", "--boot", "--", "--unit=collect.service")
	// Versions from 256 on refuse the mixed hierarchy that an older nspawn
	// would give them.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if _, missing := os.Stat(filepath.Join(shared, "out", "done")); err != nil || missing != nil {
		log, _ := os.ReadFile(filepath.Join(shared, "log"))
		t.Fatalf("booting %s: %v\n%s\n%s", release, err, out, log)
	}
}

// releaseRoot returns a root with the systemd of a release: one that is in the
// cache, whoever built it, or a new one.
func releaseRoot(t *testing.T, release string) string {
	t.Helper()
	cache := os.Getenv("AMPOULE_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		t.Fatal(err)
	}
	roots, _ := filepath.Glob(filepath.Join(cache, "systemd-"+release+"-*"))
	for _, root := range roots {
		if st, err := os.Stat(root); err == nil && st.IsDir() && !strings.HasSuffix(root, ".partial") {
			return root
		}
	}
	root := filepath.Join(cache, "systemd-"+release+"-credential")
	partial := fmt.Sprintf("%s-%d.partial", root, os.Getpid())
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(partial)
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", release, partial)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a root of %s: %v\n%s", release, err, out)
	}
	if err := os.Rename(partial, root); err != nil {
		if _, there := os.Stat(root); there != nil { // nobody else was faster
			t.Fatal(err)
		}
	}
	return root
}
