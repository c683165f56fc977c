package httpapi

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDoWith: descriptors come with the first bytes of their request and with no
// other, open the same files, and stay the caller's.
func TestDoWith(t *testing.T) {
	client, peer := connect(t)
	var files []*os.File
	for _, text := range []string{"one", "two", "three"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		io.WriteString(w, text)
		w.Close()
		files = append(files, r)
	}
	var got []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 {
			in := make([]byte, 4096)
			oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
			n, oobn, _, _, err := peer.conn.(*net.UnixConn).ReadMsgUnix(in[:10], oob)
			if err != nil {
				t.Error(err)
				return
			}
			for text := string(in[:n]); !strings.Contains(text, "\r\n\r\n") || !strings.HasSuffix(text, "}"); text = string(in[:n]) {
				more, moreOOB, _, _, err := peer.conn.(*net.UnixConn).ReadMsgUnix(in[n:], oob[oobn:])
				if err != nil || moreOOB > 0 {
					t.Errorf("%v, %d bytes of descriptors behind the first", err, moreOOB)
					return
				}
				n += more
			}
			got = append(got, contents(t, oob[:oobn])...)
			got = append(got, "|")
			peer.send("HTTP/1.1 204 \r\nServer: API\r\nConnection: keep-alive\r\n\r\n")
		}
	}()
	body := func() Body { return bytes.NewReader([]byte(`{"id":"net0"}`)) }
	if _, err := client.DoWith(testContext(t), "PUT", "/vm.add-net", body(), files); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(testContext(t), "PUT", "/vm.boot", body()); err != nil {
		t.Fatal(err)
	}
	<-done
	if want := []string{"one", "two", "three", "|", "|"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, f := range files {
		if _, err := f.Stat(); err != nil {
			t.Errorf("a file was taken from its owner: %v", err)
		}
	}
}

// contents reads what the descriptors in a message lead to.
func contents(t *testing.T, oob []byte) []string {
	var out []string
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Error(err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Error(err)
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			text, err := io.ReadAll(f)
			if err != nil {
				t.Error(err)
			}
			f.Close()
			out = append(out, string(text))
		}
	}
	return out
}

// TestDoWithCannot: what cannot be passed on is an error of the request alone, and
// nothing of it was sent.
func TestDoWithCannot(t *testing.T) {
	client, peer := connect(t)
	if _, err := client.DoWith(testContext(t), "PUT", "/x", nil, make([]*os.File, MaxFiles+1)); err == nil || !strings.Contains(err.Error(), "254 descriptors") {
		t.Errorf("too many: %v", err)
	}
	go func() {
		peer.receive()
		peer.send("HTTP/1.1 204 \r\n\r\n")
	}()
	if _, err := client.Do(testContext(t), "GET", "/x", nil); err != nil {
		t.Errorf("the request behind it: %v", err)
	}
	ours, _ := net.Pipe()
	other := New(ours)
	defer other.Close()
	if _, err := other.DoWith(testContext(t), "PUT", "/x", nil, []*os.File{os.Stdin}); err == nil || !strings.Contains(err.Error(), "passes no descriptors on") {
		t.Errorf("no socket: %v", err)
	}
}
