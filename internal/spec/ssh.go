package spec

// SSHCredential is the credential with the keys that the guest's sshd takes for all
// users, of those who come over its vsock; KeysOverVSock is the first version of
// systemd with it (systemd.system-credentials(7), systemd-ssh-generator(8)).
const (
	SSHCredential = "ssh.ephemeral-authorized_keys-all"
	KeysOverVSock = 256
)

// sshDropIn is the credential with a drop-in for the unit in which the guest's sshd
// serves a connection over its vsock (systemd-debug-generator(8), from 256 too), and
// sshTakesKey the drop-in. The unit that systemd-ssh-generator writes reads the key
// by itself; but where a distribution has an sshd@.service of its own, as Debian
// has, it takes that one, which knows nothing of the key.
const (
	sshDropIn   = "systemd.unit-dropin.sshd-vsock@.service"
	sshTakesKey = "[Service]\nImportCredential=" + SSHCredential + "\nExecStart=\n" +
		`ExecStart=-@sshd /usr/sbin/sshd -i -o "AuthorizedKeysFile ${CREDENTIALS_DIRECTORY}/` + SSHCredential + ` .ssh/authorized_keys"` + "\n"
)

// EphemeralKey is the value of SSH= by which Ampoule makes the key.
const EphemeralKey = "ephemeral"

func sshRow() Row {
	return Row{
		Name: "SSH", Form: EphemeralKey + "|no", Default: "no", Words: []string{EphemeralKey, "no"}, Accepted: "accepted: " + EphemeralKey + ", no",
		Help: "ephemeral makes a key at each start with which ampoule ssh gets into the guest, as any of its users. The guest gets the public half as the credential " + SSHCredential + "; " +
			"the private half stays in the memory of ampoule run and ends with it. It needs VSockCID=, and a guest with sshd and systemd 256 or later (GuestSystemd=). " +
			"no leaves it to the keys that you and the guest have.",
		apply: setScalar(func(vm *VM) *Setting[string] { return &vm.SSH },
			func(s string) (string, error) { return ParseWordOf(s, EphemeralKey, "no") }),
	}
}

// checkSSH refuses a key that would come to nobody.
func (r *reader) checkSSH() {
	vm := r.vm
	at := vm.SSH.From
	if vm.SSH.Value != EphemeralKey {
		return
	}
	if !vm.VSockCID.Set {
		at.Errorf(r.problems, "add VSockCID=auto", "the guest takes the key over its vsock, and the VM has none")
	}
	switch v := vm.GuestSystemd; {
	case v.Value >= KeysOverVSock:
	case v.Set:
		at.Errorf(r.problems, "use SSH=no and a key of yours", "a guest's systemd below %d (%s) has no sshd at its vsock, and hands it no key", KeysOverVSock, v.From.Origin)
	default:
		at.Errorf(r.problems, "add GuestSystemd= with the guest's version", "the guest's systemd has to be %d or later, and nothing says that it is", KeysOverVSock)
	}
}
