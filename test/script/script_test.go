// Package script runs the golden cases: each file in testdata is a script with
// the files of a VM and the whole of what the commands must say to them. No
// case boots a VM. After a wanted change, go test ./test/script -update
// rewrites the expectations, and the diff is there to be read.
package script

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ampoule-vm/ampoule/internal/cli"
)

var update = flag.Bool("update", false, "rewrite the expectations")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ampoule": func() {
			os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
		"mkkernel": func() { os.Exit(makeImages(os.Args[1:])) },
	})
}

// makeImages writes files that begin like what they stand for: no case boots
// them, and check looks at how they begin.
func makeImages(names []string) int {
	for _, name := range names {
		data := make([]byte, 0x400)
		switch filepath.Ext(name) {
		case ".cpio":
			copy(data, "070701")
		case ".qcow2":
			copy(data, "QFI\xfb")
		default:
			data[0x1FE], data[0x1FF] = 0x55, 0xAA
			copy(data[0x202:], "HdrS")
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return 1
		}
	}
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			// Nothing of the caller's surroundings decides a case.
			for _, name := range []string{"CREDENTIALS_DIRECTORY", "INVOCATION_ID", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET"} {
				env.Setenv(name, "")
			}
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir)
			return nil
		},
	})
}
