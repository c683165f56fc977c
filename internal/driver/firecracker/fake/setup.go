package fake

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Files beside the link by which the program is executed. Its environment is
// empty and its arguments are strict, so this is how a test speaks to it.
const (
	setupFile    = "stand-in.json"
	bootsFile    = "stand-in.boots"
	requestsFile = "stand-in.requests"
)

// setup is what a test wants otherwise than the real program is.
type setup struct {
	Troubles []trouble
	NoKVM    bool
	Record   bool

	dir string
}

// trouble is a mishap at a request, such as "PUT /actions", or at "start",
// before there is a socket.
type trouble struct {
	At   string
	Do   string
	Wait time.Duration
	Code int
}

// What a trouble does.
const (
	doLate    = "late"
	doGarbage = "garbage"
	doClose   = "close"
	doDie     = "die"
	doQuote   = "quote"
)

// readSetup finds the directory of the link; without one there is no setup.
func readSetup(args []string) (setup, error) {
	if len(args) == 0 {
		return setup{}, errors.New("an empty list of arguments")
	}
	s := setup{}
	executed, err := executedPath()
	if err != nil || filepath.Base(executed) != program {
		executed = args[0]
	}
	if !strings.Contains(executed, "/") {
		return s, nil
	}
	s.dir = filepath.Dir(executed)
	b, err := os.ReadFile(filepath.Join(s.dir, setupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return setup{}, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// executedPath is the path that the kernel was told to execute, a link before
// it is followed. Args[0] need not be it, and /proc/self/exe is not.
func executedPath() (string, error) {
	const execFn = 31 // AT_EXECFN in elf.h: an address in this process
	vector, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return "", err
	}
	for ; len(vector) >= 16; vector = vector[16:] {
		if binary.NativeEndian.Uint64(vector) != execFn {
			continue
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return "", err
		}
		defer mem.Close()
		b := make([]byte, 4096)
		n, err := mem.ReadAt(b, int64(binary.NativeEndian.Uint64(vector[8:])))
		if end := bytes.IndexByte(b[:n], 0); end >= 0 {
			return string(b[:end]), nil
		}
		return "", fmt.Errorf("no end of the path: %w", err)
	}
	return "", errors.New("the kernel does not tell the path")
}

func (s setup) at(what string) *trouble {
	for i := range s.Troubles {
		if s.Troubles[i].At == what {
			return &s.Troubles[i]
		}
	}
	return nil
}

// countBoot returns how many machines were started before by this link.
func (s setup) countBoot() int {
	if s.dir == "" {
		return 0
	}
	path := filepath.Join(s.dir, bootsFile)
	b, _ := os.ReadFile(path)
	// Where it cannot be written, each start is the first one.
	_ = os.WriteFile(path, append(b, '.'), 0o600)
	return len(b)
}

// Request is one that was answered, as [Requests] returns it.
type Request struct {
	Method, Path string
	Body         string
	Status       int
}

// record keeps a request where a test asked for it.
func (s setup) record(r *request, answer []byte) {
	if !s.Record {
		return
	}
	kept := Request{Method: r.method, Path: r.path(), Body: string(r.body)}
	_, _ = fmt.Sscanf(string(answer), "HTTP/1.1 %d", &kept.Status)
	f, err := os.OpenFile(filepath.Join(s.dir, requestsFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(asJSON(kept) + "\n")
}
