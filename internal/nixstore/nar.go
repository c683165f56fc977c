package nixstore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"strings"
)

// HashFile returns the SHA-256 of a store path that is one file, as Nix's database
// has it: of the archive that Nix makes of it, in hexadecimal.
func HashFile(t *Tree, p string, most int64) (string, error) {
	info, err := t.Stat(p)
	if err != nil {
		return "", err
	}
	text, err := t.ReadFile(p, most)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	put := func(s string) {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		_, _ = io.WriteString(h, s)
		h.Write(make([]byte, (8-len(s)%8)%8))
	}
	for _, s := range []string{"nix-archive-1", "(", "type", "regular"} {
		put(s)
	}
	if info.Mode&0o100 != 0 {
		put("executable")
		put("")
	}
	put("contents")
	put(string(text))
	put(")")
	return hex.EncodeToString(h.Sum(nil)), nil
}

// SHA256 returns the digits of a hash of the database; "" where it is none that
// could be compared.
func SHA256(hash string) string {
	digits, ok := strings.CutPrefix(hash, "sha256:")
	if !ok || len(digits) != 2*sha256.Size || strings.Trim(digits, "0123456789abcdef") != "" {
		return ""
	}
	return digits
}
