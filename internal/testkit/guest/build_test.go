package guest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script runs guest/build and returns its exit code and what it said.
func script(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	root, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(root, "guest", "build"), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), words.String()
}

// TestScriptRefuses: wrong usage is told before anything is made.
func TestScriptRefuses(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	exists := filepath.Join(dir, "exists")
	if err := os.Mkdir(exists, 0o755); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		args []string
		want string
	}{
		"no suite":        {[]string{"--output", out}, "--suite is missing: bookworm or trixie"},
		"unknown suite":   {[]string{"--suite", "sid", "--output", out}, "--suite=sid: not known"},
		"nowhere":         {[]string{"--suite=bookworm"}, "neither --output nor --cache"},
		"unknown option":  {[]string{"--suit", "bookworm"}, "unknown argument --suit"},
		"no value":        {[]string{"--suite"}, "--suite needs a value"},
		"compress":        {[]string{"--suite=bookworm", "--output", out, "--compress=xz"}, "--compress=xz: not known"},
		"package":         {[]string{"--suite=bookworm", "--output", out, "--include", "curl,Bad name"}, "--include=Bad name: not a Debian"},
		"module":          {[]string{"--suite=bookworm", "--output", out, "--module", "a/b"}, "--module=a/b: not a kernel"},
		"copy to where":   {[]string{"--suite=bookworm", "--output", out, "--copy", "/etc/passwd"}, "SRC:DEST with an absolute DEST"},
		"copy of what":    {[]string{"--suite=bookworm", "--output", out, "--copy", "/no/such:/x"}, "/no/such does not exist"},
		"overlay":         {[]string{"--suite=bookworm", "--output", out, "--overlay", "/etc/passwd"}, "--overlay=/etc/passwd: not a directory"},
		"run":             {[]string{"--suite=bookworm", "--output", out, "--run", "/no/such"}, "--run=/no/such: not a readable file"},
		"kernel":          {[]string{"--suite=bookworm", "--output", out, "--kernel=rt"}, "--kernel=rt: not known; cloud or generic"},
		"initrd, no disk": {[]string{"--suite=bookworm", "--output", out, "--initrd-by=dracut"}, "--initrd-by=dracut: only with --disk"},
		"initrd by whom":  {[]string{"--suite=bookworm", "--output", out, "--disk", "--initrd-by=mkinitcpio"}, "--initrd-by=mkinitcpio: not known; dracut or initramfs-tools"},
		"uncompressed":    {[]string{"--suite=bookworm", "--output", out, "--disk", "--initrd-by=initramfs-tools", "--compress=none"}, "--compress=none: initramfs-tools always compresses"},
		"exists":          {[]string{"--suite=bookworm", "--output", exists}, exists + ": exists already; remove it or add --force"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := script(t, nil, c.args...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("code %d, output %q, words %q; want code 2 and %q", code, stdout, stderr, c.want)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// TestScriptNamesMissingTools: all of them at once, with the line to run.
func TestScriptNamesMissingTools(t *testing.T) {
	tools := t.TempDir()
	for _, name := range []string{"bash", "readlink", "dirname", "cat", "uname"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	code, _, stderr := script(t, []string{"PATH=" + tools}, "--suite=trixie", "--output", out)
	for _, want := range []string{"mmdebstrap", "cpio", "zstd", "xz-utils", "apt-get install --no-install-recommends"} {
		if code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("code %d, words %q; want code 1 and %q", code, stderr, want)
		}
	}
	if _, err := os.Lstat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestScriptHelp(t *testing.T) {
	code, stdout, stderr := script(t, nil, "--help")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: guest/build") {
		t.Errorf("code %d, output %q, words %q", code, stdout, stderr)
	}
}

func TestUnknownSuite(t *testing.T) {
	if _, _, err := build(t.TempDir(), t.TempDir(), "sid"); err == nil || !strings.Contains(err.Error(), `"sid" is not known`) {
		t.Errorf("got %v", err)
	}
}
