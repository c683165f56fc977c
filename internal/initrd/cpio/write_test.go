package cpio

import (
	"bytes"
	"strings"
	"testing"
)

func TestHeaderIsExact(t *testing.T) {
	h := Header{Ino: 0xABCDEF01, Mode: TypeRegular | 0o400, UID: 1, GID: 2, NLink: 3, MTime: 4, Size: 5,
		DevMajor: 6, DevMinor: 7, RDevMajor: 8, RDevMinor: 9, Name: "a/bc"}
	want := "070701" + "ABCDEF01" + "00008100" + "00000001" + "00000002" + "00000003" + "00000004" + "00000005" +
		"00000006" + "00000007" + "00000008" + "00000009" + "00000005" + "00000000" + "a/bc\x00" + "\x00"
	if got := string(AppendHeader(nil, h)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := string(AppendHeader([]byte("before"), h)); got != "before"+want {
		t.Errorf("what was there is %q", got)
	}
}

func TestSizes(t *testing.T) {
	for n := range 300 {
		name := strings.Repeat("n", n)
		got := AppendHeader(nil, Header{Name: name})
		if len(got) != HeaderSize(n) || len(got)%4 != 0 {
			t.Errorf("a name of %d bytes: %d bytes, HeaderSize says %d", n, len(got), HeaderSize(n))
		}
		if p := Padding(n); p < 0 || p > 3 || (n+p)%4 != 0 {
			t.Errorf("Padding(%d) = %d", n, p)
		}
		if p := Pad(n, 4096); (n+p)%4096 != 0 || p > 4095 {
			t.Errorf("Pad(%d, 4096) = %d", n, p)
		}
	}
	if got := AppendTrailer(nil); len(got) != HeaderSize(10) || !bytes.Contains(got, []byte("0000000B00000000TRAILER!!!\x00")) {
		t.Errorf("trailer: %q", got)
	}
}

// TestNothingIsCopied: bytes that must stay where they are stay there.
func TestNothingIsCopied(t *testing.T) {
	h := Header{Mode: TypeRegular, Size: 4, Name: ".ampoule/credentials/KEY"}
	room := make([]byte, 0, HeaderSize(len(h.Name))+HeaderSize(10))
	if n := testing.AllocsPerRun(100, func() {
		if out := AppendTrailer(AppendHeader(room, h)); &out[0] != &room[:1][0] {
			t.Error("it moved")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
