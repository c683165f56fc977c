package spec

import "cmp"

// Given is a credential that Ampoule itself gives the guest, because of a key. None
// is a secret.
type Given struct {
	Name string
	// Value is empty where it is known only at start.
	Value string
	// Does says what Ampoule does with it, as in "Ampoule itself …".
	Does string
	From From
}

// NotifyCredential is the credential by which a guest's systemd learns where it can
// say how it goes (systemd(1)).
const NotifyCredential = "vmm.notify_socket"

// Given are the credentials that the credential channel carries beside the user's.
func (vm *VM) Given() []Given {
	var out []Given
	if vm.SSH.Value == EphemeralKey {
		out = append(out,
			Given{Name: SSHCredential, Does: "gives the guest's sshd the key of ampoule ssh", From: vm.SSH.From},
			Given{Name: sshDropIn, Value: sshTakesKey, Does: "has the guest's sshd take the key of ampoule ssh", From: vm.SSH.From})
	}
	if fstab, from := vm.mounts(); fstab != "" {
		out = append(out, Given{Name: FstabCredential, Value: fstab, Does: "has the guest mount its shares", From: from})
	}
	return out
}

// notified is the credential that goes with the others, and without any of them on
// the kernel's command line.
func (vm *VM) notified() []Given {
	if !vm.VSockCID.Set {
		return nil
	}
	return []Given{{Name: NotifyCredential, Does: "tells the guest's systemd where it is heard", From: vm.VSockCID.From}}
}

// carried are the assignments behind what the credential channel carries.
func (vm *VM) carried() []From {
	var out []From
	for _, c := range vm.Credentials {
		out = append(out, c.From)
	}
	for _, g := range vm.Given() {
		out = append(out, g.From)
	}
	return out
}

// checkGiven refuses a credential of the user's under the name of one that Ampoule
// itself gives.
func (r *reader) checkGiven() {
	for _, g := range append(r.vm.notified(), r.vm.Given()...) {
		for _, c := range r.vm.Credentials {
			if cmp.Or(c.Guest, c.ID) == g.Name {
				c.From.Errorf(r.problems, "remove it, or remove "+g.From.Key+"=", "with %s= (%s) Ampoule itself %s", g.From.Key, g.From.Origin, g.Does)
			}
		}
	}
}
