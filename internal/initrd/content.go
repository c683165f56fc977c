package initrd

import (
	"bytes"
	"strings"
)

// content is what is kept of a regular file: nothing, unless it can be run.
type content struct {
	elf, script bool
	interpreter string
	systemd     bool // linked with a library that is systemd's own
}

const (
	// maxInterpreter is as much of the first line as Linux reads.
	maxInterpreter = 256
	// maxProgram is the size up to which it is looked at what a program is linked
	// with. systemd has some hundred KiB, or few MiB before its code moved into
	// libraries.
	maxProgram = 16 << 20
)

// watcher looks at the content of one file as it comes by.
type watcher struct {
	head    []byte // at most maxInterpreter bytes
	whole   bool   // program is all there was
	program []byte // of an executable ELF file; the memory is used again
}

func (w *watcher) begin(executable bool) {
	w.head, w.program, w.whole = w.head[:0], w.program[:0], executable
}

func (w *watcher) piece(p []byte) {
	if len(w.head) < maxInterpreter {
		w.head = append(w.head, p[:min(len(p), maxInterpreter-len(w.head))]...)
	}
	if !w.whole {
		return
	}
	const magic = "\x7fELF"
	if n := min(len(w.head), len(magic)); string(w.head[:n]) != magic[:n] || len(w.program)+len(p) > maxProgram {
		w.whole, w.program = false, w.program[:0]
		return
	}
	w.program = append(w.program, p...)
}

func (w *watcher) end() content {
	out := content{elf: bytes.HasPrefix(w.head, []byte("\x7fELF"))}
	if line, ok := bytes.CutPrefix(w.head, []byte("#!")); ok {
		out.script = true
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			out.interpreter = words[0]
		}
	}
	out.systemd = w.whole && linksSystemd(w.program)
	return out
}
