package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// buildRoot returns the directory of a Debian root of the peers. It is made when
// the cache has none of that recipe, which are mmdebstrap's arguments, and is not
// to be written.
func buildRoot(suite string, recipe ...string) (string, error) {
	recipe = append(recipe, suite)
	sum := sha256.Sum256([]byte(strings.Join(recipe, "\x00")))
	cache, err := filepath.Abs(cmp.Or(os.Getenv("AMPOULE_CACHE"), ".cache"))
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "bench-"+suite+"-"+hex.EncodeToString(sum[:4]))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(root+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", os.NewSyscallError("flock", err)
	}
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	fmt.Fprintf(os.Stderr, "building %s ...\n", root)
	partial := root + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", err
	}
	if out, err := exec.Command("mmdebstrap", append(recipe, partial)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return root, os.Rename(partial, root)
}
