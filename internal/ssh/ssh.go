// Package ssh has the host's ssh client speak over a connection that Ampoule
// made, since the client knows nothing of vsock. It is the client that runs, in
// our place, or as a child that has all that we have where there is something to
// say when it has ended: its terminal, its agent, its configuration, its exit code.
//
// The client closes what it inherits and starts a helper, its ProxyCommand, of
// which it then takes a connected socket (ProxyUseFdpass, ssh_config(5)). The
// helper ends there: no process stands between the client and the guest.
package ssh

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Domain ends the name by which the client knows a VM, so that a configuration of
// ssh's can speak of VMs (Host *.ampoule). It is looked up nowhere.
const Domain = ".ampoule"

// ErrNoClient: there is no ssh in $PATH.
var ErrNoClient = errors.New("there is no program ssh in $PATH; install OpenSSH's client (Debian's package openssh-client)")

// Client is one call of the client.
type Client struct {
	// Name is the VM's.
	Name string
	User string
	Port uint16
	// Identity is the path of a private key; empty: what the client finds.
	Identity string
	// Agent is the path of an agent with the key that the guest takes, in the place
	// of those that the client finds; empty: there is none.
	Agent string
	// Options are the user's -o, which go before ours: the first of two counts.
	Options []string
	// Verbose is how often -v was given.
	Verbose int
	// Command is what the guest is to execute; empty: a shell.
	Command []string
	// Proxy are the words of the helper that calls Pass.
	Proxy []string
}

// Arguments are the client's, without its name.
func (c Client) Arguments() []string {
	var args []string
	for range c.Verbose {
		args = append(args, "-v")
	}
	options := append(append([]string{}, c.Options...), "ProxyCommand="+proxyCommand(c.Proxy), "ProxyUseFdpass=yes",
		// Whoever answers is the guest, as surely as its socket is the VM's; and its
		// key is a new one at each boot of a guest that keeps nothing.
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null",
		// A connection that others join would outlive its command and the guest's boot.
		"ControlPath=none")
	if c.Agent != "" && c.Identity == "" {
		// IdentitiesOnly would keep the client from asking an agent.
		options = append(options, "IdentityAgent="+strings.ReplaceAll(c.Agent, "%", "%%"), "IdentityFile=none", "IdentitiesOnly=no")
	}
	if c.Verbose == 0 {
		// Else it warns each time that it has learnt a key.
		options = append(options, "LogLevel=ERROR")
	}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	args = append(args, "-l", c.User, "-p", strconv.FormatUint(uint64(c.Port), 10))
	if c.Identity != "" {
		args = append(args, "-i", c.Identity)
	}
	// Before the name: then nothing behind it is an option of the client's.
	return append(append(args, "--", c.Name+Domain), c.Command...)
}

// proxyCommand writes words for sh, and for the client, which expands what begins
// with a percent sign.
func proxyCommand(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, w := range words {
		quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.ReplaceAll(strings.Join(quoted, " "), "%", "%%")
}

// Exec becomes the client. It returns only with what kept it from that.
func (c Client) Exec(environ []string) error {
	path, err := exec.LookPath("ssh")
	if errors.Is(err, exec.ErrNotFound) {
		return ErrNoClient
	}
	if err != nil {
		return err
	}
	if err := syscall.Exec(path, append([]string{"ssh"}, c.Arguments()...), withShell(environ)); err != nil {
		return fmt.Errorf("executing %s: %w", path, err)
	}
	return nil
}

// withShell has the client start the helper by sh, as whose words it is written:
// a user's shell may have other quotes, or start nothing.
func withShell(environ []string) []string {
	out := make([]string, 0, len(environ)+1)
	for _, e := range environ {
		if !strings.HasPrefix(e, "SHELL=") {
			out = append(out, e)
		}
	}
	return append(out, "SHELL=/bin/sh")
}
