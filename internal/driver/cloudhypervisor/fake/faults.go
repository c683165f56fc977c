package fake

import (
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// faults are how the hypervisor misbehaves.
type faults struct {
	mu  sync.Mutex
	all []fault
}

// fault is one of them; see the package's comment.
type fault struct{ request, what, how string }

// add reads faults. What cannot be read is a mistake in a test, which ends the
// process where it is seen.
func (f *faults) add(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := range strings.SplitSeq(text, "+") {
		if one == "" {
			continue
		}
		parts := strings.SplitN(one, ":", 3)
		if len(parts) < 2 {
			misused("a fault is REQUEST:WHAT[:HOW], not " + one)
		}
		f.all = append(f.all, fault{parts[0], parts[1], strings.Join(parts[2:], "")})
	}
}

// find returns the fault of a request that was asked for last.
func (f *faults) find(request string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.all) - 1; i >= 0; i-- {
		if one := f.all[i]; one.request == request || one.request == "*" {
			return &one
		}
	}
	return nil
}

// before misbehaves instead of doing what is asked. It returns false when the
// connection is over.
func (f *fault) before(v *vmm, conn net.Conn) bool {
	switch f.what {
	case "mute":
		v.replies.Done() // nobody waits for it
		<-v.done
		v.replies.Add(1)
		return false
	case "close":
		return false
	case "garbage":
		_, _ = conn.Write([]byte("\x00\x01 no HTTP\r\n\r\n"))
		return false
	case "die":
		exit(f.number())
	case "late", "cut", "quote", "die-after", "lose":
	default:
		misused("there is no fault " + f.what)
	}
	return true
}

// after misbehaves about the answer.
func (f *fault) after(conn net.Conn, r request, out response) bool {
	switch f.what {
	case "late":
		d, err := time.ParseDuration(f.how)
		if err != nil {
			misused("not a duration: " + f.how)
		}
		time.Sleep(d)
	case "quote":
		out = answer(400, refusal([]string{"Failed to deserialize JSON", "invalid type: string " + quote(string(r.body)) + ", expected u64 at line 1 column 1"}))
	case "cut":
		whole := out.bytes()
		_, _ = conn.Write(whole[:len(whole)/2])
		return false
	}
	_, err := conn.Write(out.bytes())
	if f.what == "die-after" {
		exit(f.number())
	}
	return err == nil
}

func (f *fault) number() int {
	n, err := strconv.Atoi(f.how)
	if err != nil {
		misused("not an exit code: " + f.how)
	}
	return n
}

// option finds the value of NAME=VALUE among the words of a command line.
func option(cmdline, name string) string {
	for word := range strings.FieldsSeq(cmdline) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// unescape resolves %20 and its like.
func unescape(s string) string {
	out, err := url.PathUnescape(s)
	if err != nil {
		misused("cannot be read: " + s)
	}
	return out
}

// misused ends the process: a test wants something that there is not.
func misused(words string) {
	_, _ = os.Stderr.WriteString("the stand-in for cloud-hypervisor: " + words + "\n")
	exit(99)
}
