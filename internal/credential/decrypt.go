package credential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// SystemdCreds decrypts with the tool of that name, which knows the host's key
// and its TPM. The zero value uses the one in $PATH.
type SystemdCreds struct {
	// Path is the program; empty means "systemd-creds".
	Path string
	// Environ is its environment; nil means those of our own variables that
	// systemd's tools read (SYSTEMD_…).
	Environ []string
}

// errNoTool is returned where systemd-creds is absent.
var errNoTool = errors.New("systemd-creds, which decrypts it, is not installed")

// Decrypt implements [Env].Decrypt. The blob goes in and the value comes out
// through pipes, straight from and into the memory of a secret. The tool's own
// words are part of the error; it never prints values.
func (c SystemdCreds) Decrypt(ctx context.Context, name string, blob *secret.Value) (*secret.Value, error) {
	if err := rule.Name(name); err != nil {
		return nil, err // an empty name would turn the tool's check of it off
	}
	program, err := exec.LookPath(cmp.Or(c.Path, "systemd-creds"))
	if err != nil {
		return nil, errNoTool
	}
	cmd := exec.CommandContext(ctx, program, "decrypt", "--name="+name, "-", "-")
	cmd.Env = c.environ()
	stderr := &tail{max: 1024}
	cmd.Stderr = stderr
	v, err := exchange(cmd, blob)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return v, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("systemd-creds did not end in time: %w", ctx.Err())
	case errors.As(err, &exit):
		return nil, fmt.Errorf("systemd-creds does not decrypt it as %q: %s", name, stderr.words(exit))
	default:
		return nil, fmt.Errorf("running systemd-creds: %w", err)
	}
}

func (c SystemdCreds) environ() []string {
	if c.Environ != nil {
		return c.Environ
	}
	env := []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "SYSTEMD_") {
			env = append(env, v)
		}
	}
	return env
}

// exchange runs a command, gives it a secret to read and returns what it
// prints.
func exchange(cmd *exec.Cmd, input *secret.Value) (*secret.Value, error) {
	stdin, feed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer feed.Close()
	printed, stdout, err := os.Pipe()
	if err != nil {
		_ = stdin.Close()
		return nil, err
	}
	defer printed.Close()
	// As files and not as readers, or os/exec would copy through the heap.
	cmd.Stdin, cmd.Stdout = stdin, stdout
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = stdin.Close()
	_ = stdout.Close()
	if err != nil {
		return nil, err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		// A program that ends early breaks the pipe; its exit status says why.
		_, _ = input.WriteTo(feed)
		_ = feed.Close()
	}()
	v, readErr := secret.ReadFrom(printed, rule.MaxSize)
	if readErr != nil {
		_ = printed.Close() // it must not wait for us to read on
	}
	err = cmd.Wait()
	<-fed
	if err == nil || readErr != nil {
		err = cmp.Or(readErr, err)
	}
	if err != nil && v != nil {
		v.Wipe()
		v = nil
	}
	return v, err
}

// tail keeps the last max bytes of what is written to it.
type tail struct {
	max int
	buf []byte
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if cut := len(t.buf) - t.max; cut > 0 {
		t.buf = append(t.buf[:0], t.buf[cut:]...)
	}
	return len(p), nil
}

// words returns the text on one line, fit for a message, or the exit status of
// a program that said nothing.
func (t *tail) words(exit *exec.ExitError) string {
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case r < 0x20 || r == 0x7f || r == utf8.RuneError:
			return '?'
		}
		return r
	}, strings.TrimSpace(string(t.buf)))
	return cmp.Or(text, exit.Error())
}

// decryptCure says what helps against an error of decryption.
func decryptCure(err error) string {
	if errors.Is(err, errNoTool) {
		return "install systemd 250 or later"
	}
	return "encrypt it on this host, with systemd-creds encrypt --name=NAME"
}
