package host

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// SystemdVersion asks systemctl for the version of the host's systemd.
func (h Host) SystemdVersion(ctx context.Context) (int, error) {
	path, ok := h.FindBinary([]string{"systemctl"})
	if !ok {
		return 0, fmt.Errorf("systemctl is not in $PATH")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("asking systemctl for its version: %w", err)
	}
	// "systemd 252 (252.39-1~deb12u2)"
	fields := strings.Fields(string(out))
	if len(fields) < 2 || fields[0] != "systemd" {
		return 0, fmt.Errorf("systemctl does not tell its version")
	}
	return strconv.Atoi(fields[1])
}
