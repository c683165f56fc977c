package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

// FuzzReply: whatever a peer sends is replies or an error, the same in any
// pieces, within the limits, and a reply that is written anew is read as the
// same.
func FuzzReply(f *testing.F) {
	for _, text := range garbage() {
		f.Add([]byte(text))
	}
	for _, text := range []string{
		"HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 204 \r\n\r\n",
		"HTTP/1.1 100 \r\n\r\nHTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n[]",
		"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := &replyReader{src: bytes.NewReader(data)}
		pieces := &replyReader{src: iotest.OneByteReader(bytes.NewReader(data))}
		for {
			a, errA := whole.reply()
			b, errB := pieces.reply()
			if fmt.Sprint(errA) != fmt.Sprint(errB) || a.Status != b.Status || !bytes.Equal(a.Body, b.Body) {
				t.Fatalf("at once %v, %v; in pieces %v, %v", a, errA, b, errB)
			}
			if errA != nil {
				if !errors.Is(errA, ErrProtocol) && errA != io.EOF && errA != io.ErrUnexpectedEOF {
					t.Fatalf("an error of no kind: %v", errA)
				}
				return
			}
			if a.Status < 200 || a.Status > 999 || len(a.Body) > MaxBody {
				t.Fatalf("a reply beyond the limits: %v", a)
			}
			again := fmt.Appendf(nil, "HTTP/1.1 %d \r\nContent-Length: %d\r\n\r\n%s", a.Status, len(a.Body), a.Body)
			c, err := (&replyReader{src: bytes.NewReader(again)}).reply()
			if err != nil || c.Status != a.Status || !bytes.Equal(c.Body, a.Body) {
				t.Fatalf("%v, written anew, is %v, %v", a, c, err)
			}
		}
	})
}
