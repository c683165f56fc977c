package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/ssh"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

// sshPort is where a guest's systemd has sshd listen.
const sshPort = 22

// sshPatience is how long a guest may take to answer. One that has nothing at the
// port says so at once; one that has not come to its driver says nothing.
const sshPatience = 10 * time.Second

func sshCommand(s Streams) *cobra.Command {
	client := ssh.Client{Port: sshPort}
	var proxy bool
	cmd := &cobra.Command{
		Use:   "ssh [flags] NAME [COMMAND…]",
		Short: "Get into a running VM with ssh, over its vsock",
		Long: "Runs the ssh client of this host, over the guest's vsock: neither a network nor an address is needed. " +
			"What stands behind NAME is the command for the guest, and the exit code is ssh's: that of the command, or 255.\n\n" +
			"The VM needs VSockCID=auto. The guest needs sshd and systemd 256 or later, which then has sshd listen at port 22 of the vsock by itself; " +
			"an older one needs a socket unit with ListenStream=vsock::22 and Accept=yes for sshd -i.\n\n" +
			"With SSH=ephemeral (and a guest's systemd of 256 or later) each start makes a key that gets into the guest as any of its users. Its private half stays in the memory of ampoule run, " +
			"which signs with it for ssh as an agent does, at a socket that is open to root and to the VM's user, and ends with it. " +
			"Where the guest does not take it, a line behind ssh's own words says what that means. " +
			"-i, or -o IdentityFile= together with -o IdentityAgent=, go before it. " +
			"Else, and with SSH=no, into a guest without a password comes who has a key that the guest knows; " +
			"the credential ssh.authorized_keys.root brings root's (systemd 252 or later), for example with\n\n" +
			"  LoadCredential=ssh.authorized_keys.root:/root/.ssh/id_ed25519.pub\n\n" +
			"With -v, ssh's own messages come after a line that says which of the two it is.\n\n" +
			"The guest's host key is not looked at. It says nothing that is not known: the other end of the vsock is the VM's own hypervisor, " +
			"and whoever could put something else there, root and the VM's user, has the guest in hand anyway. " +
			"And a guest that keeps nothing makes a new key at each boot, which would be an alarm each time. Who wants it looked at gives " +
			"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=FILE, which go before what Ampoule says.\n\n" +
			"rsync takes \"ampoule ssh\" as its remote shell. For scp, sftp and others that start ssh themselves, let ssh_config say\n\n" +
			"  Host *.ampoule\n" +
			"    ProxyCommand ampoule ssh --proxy --port %p %n\n" +
			"    ProxyUseFdpass yes\n\n" +
			"and use NAME.ampoule as the host's name; then it is that configuration which decides on the user and on host keys.\n\n" +
			"The vsock of a service is open to root and to the service's own user.",
		Example: "  ampoule ssh web\n  ampoule ssh -l admin web journalctl -b -p err\n  ampoule ssh -o RequestTTY=yes web top\n" +
			"  rsync -a -e \"ampoule ssh\" web:/var/log/ logs/",
		Args: argumentsOf("ssh takes a NAME, and behind it the COMMAND for the guest", 1, -1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeRunning(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if user, name, ok := strings.Cut(args[0], "@"); ok {
				return fmt.Errorf("%s: no name of a VM; to log in as %s, say: ampoule ssh -l %s %s", args[0], user, user, name)
			}
			if client.Port == 0 {
				return errors.New("--port=0: no port; accepted: 1 to 65535")
			}
			if proxy {
				return passGuest(cmd.Context(), s, args, client.Port)
			}
			return becomeSSH(s, client, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what stands behind NAME is the guest's
	f.StringVarP(&client.User, "user", "l", "root", "log in as this `USER` of the guest")
	f.Uint16VarP(&client.Port, "port", "p", sshPort, "connect with this `PORT` of the guest's vsock")
	f.StringVarP(&client.Identity, "identity", "i", "", "use the private key in this `FILE`")
	f.StringArrayVarP(&client.Options, "option", "o", nil, "an `OPTION` of ssh_config(5) for ssh, before those of Ampoule; can be repeated")
	f.CountVarP(&client.Verbose, "verbose", "v", "have ssh say what it does; can be repeated")
	f.BoolVar(&proxy, "proxy", false, "be ssh's ProxyCommand: connect, and hand the connection over as ProxyUseFdpass=yes wants it")
	for _, name := range []string{"user", "port", "option"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// becomeSSH looks whether there is a guest to get into, and executes ssh.
func becomeSSH(s Streams, client ssh.Client, args []string) error {
	i, err := findRunning(args[0])
	if err != nil {
		return err
	}
	switch r := i.Record; {
	case r == nil:
		return fmt.Errorf("%s: %w", i.Name, run.ErrNotBooted)
	case r.VSock == "" && r.VSockCID == 0:
		return noVSock(i)
	}
	if client.Agent, err = run.SSHAgent(i); err != nil && client.Identity == "" {
		return noAgent(i, err)
	}
	if client.Verbose > 0 {
		fmt.Fprintln(s.Err, whichKey(i, client))
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for our own program: %w", err)
	}
	client.Name, client.Command = i.Name, args[1:]
	if len(client.Command) > 0 && client.Command[0] == "--" {
		client.Command = client.Command[1:]
	}
	client.Proxy = []string{self, "ssh", "--proxy", "--port", strconv.Itoa(int(client.Port)), i.Name}
	if client.Agent == "" || client.Identity != "" {
		return client.Exec(os.Environ())
	}
	return withKey(s, i, client)
}

// withKey has ssh enter with the key of this start, and says what ssh does not know
// where the guest has not taken that.
func withKey(s Streams, i state.Instance, client ssh.Client) error {
	before, err := run.AgentUse(i)
	if err != nil {
		return client.Exec(os.Environ()) // the agent is of an older ampoule
	}
	code, err := client.Run(os.Environ())
	if err != nil || code == 0 {
		return err
	}
	if code == ssh.Failed {
		after, err := run.AgentUse(i)
		// ssh has come so far as to offer it, and was not asked to prove that it has it.
		if err == nil && after.Listed > before.Listed && after.Signed == before.Signed {
			fmt.Fprintln(s.Err, refusedKey(i.Name, client.User))
		}
	}
	return exitError(code)
}

// refusedKey says what it means that a guest does not take the key of its start.
func refusedKey(name, user string) string {
	return fmt.Sprintf("ampoule: %s: the guest has not taken the key of this start (SSH=ephemeral) for its user %s: either no such user may log in, "+
		"or the sshd that answers does not have the key, since the guest's systemd is older than 256, or a unit or configuration of its own starts sshd; "+
		"try -l for another user, or -i for a key that the guest knows; in the guest (ampoule console %s), journalctl -t sshd says more", name, user, name)
}

// whichKey says with what the guest is to be entered.
func whichKey(i state.Instance, client ssh.Client) string {
	switch {
	case client.Identity != "":
		return i.Name + ": entering with the key in " + client.Identity
	case client.Agent != "":
		return i.Name + ": entering with the key of this start (SSH=ephemeral), by the agent at " + client.Agent
	}
	return i.Name + ": entering with your own keys: this start made none (SSH=ephemeral)"
}

// noAgent says what to do where the key of this start cannot be had.
func noAgent(i state.Instance, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s was started with a key of its own (SSH=ephemeral), of which the agent is open to root and the VM's user alone: %w", i.Name, err)
	}
	return fmt.Errorf("%s was started with a key of its own (SSH=ephemeral): %w; give another that the guest knows with -i, or start it again", i.Name, err)
}

func noVSock(i state.Instance) error {
	how := "start it again"
	if i.Service {
		how = "run ampoule apply"
	}
	return fmt.Errorf("%s has no vsock, over which ssh would reach it; add VSockCID=auto to [MicroVM] and %s", i.Name, how)
}

// passGuest connects with the guest for the ssh client that started us, and ends.
func passGuest(ctx context.Context, s Streams, args []string, port uint16) error {
	if len(args) != 1 {
		return errors.New("ssh --proxy takes one NAME")
	}
	i, err := findRunning(strings.TrimSuffix(args[0], ssh.Domain))
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	conn, err := run.DialGuest(ctx, i, uint32(port))
	if err != nil {
		return unreachable(i, port, err)
	}
	defer conn.Close()
	c, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	return ssh.Pass(s.Out, c)
}

// unreachable says what to do about a guest that does not answer.
func unreachable(i state.Instance, port uint16, err error) error {
	phase := ""
	if i.Record != nil && i.Record.Phase != state.Ready && i.Record.Phase != state.Started {
		phase = fmt.Sprintf(" (%s)", i.Record.Phase)
	}
	var late interface{ Timeout() bool }
	switch {
	case errors.Is(err, run.ErrNoVSock):
		return noVSock(i)
	case errors.Is(err, vsock.ErrRefused) && port == sshPort:
		return fmt.Errorf("%s%s: nothing in the guest listens at port %d of its vsock: it needs sshd and systemd 256 or later, or a socket unit with ListenStream=vsock::%d", i.Name, phase, port, port)
	case errors.Is(err, vsock.ErrRefused):
		return fmt.Errorf("%s%s: nothing in the guest listens at port %d of its vsock", i.Name, phase, port)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: the hypervisor's end of the vsock is gone: %w", i.Name, err)
	case errors.As(err, &late) && late.Timeout():
		return fmt.Errorf("%s%s: the guest does not answer over its vsock: it has not come to its driver, or lacks that (vmw_vsock_virtio_transport)", i.Name, phase)
	}
	return fmt.Errorf("%s: %w", i.Name, err)
}
