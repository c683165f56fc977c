package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// failure is a chain of errors, the outermost first: what the API answers and
// what the process says when it ends by it.
type failure struct {
	chain   []string
	missing bool // there is no VM: 404 instead of 500
}

func fail(chain ...string) *failure { return &failure{chain: chain} }

// under puts the words of the caller in front.
func (f *failure) under(words ...string) *failure {
	if f == nil {
		return nil
	}
	return &failure{append(words, f.chain...), f.missing}
}

func notCreated() *failure     { return &failure{[]string{"VM is not created"}, true} }
func missingConfig() *failure  { return &failure{[]string{"VM config is missing"}, true} }
func notRunning() *failure     { return fail("VM is not running") }
func alreadyCreated() *failure { return fail("VM is already created") }

// refusal is the body of an error. The real one escapes no HTML.
func refusal(chain []string) []byte {
	out := strings.Builder{}
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(chain) // strings are always encoded
	return []byte(strings.TrimSuffix(out.String(), "\n"))
}

// osError words a system error as Rust does.
func osError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	words := errno.Error()
	return fmt.Sprintf("%s (os error %d)", strings.ToUpper(words[:1])+words[1:], int(errno))
}

// exitWith prints a chain of errors as the process does before it exits with 1.
func exitWith(chain []string) string {
	if len(chain) == 1 {
		return "Error: Cloud Hypervisor exited with the following error:\n  " + chain[0] + "\n"
	}
	out := "Error: Cloud Hypervisor exited with the following chain of errors:\n"
	for i, words := range chain {
		out += fmt.Sprintf("  %d: %s\n", i, words)
	}
	return out
}
