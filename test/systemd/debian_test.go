package systemd

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// corpusPackages are Debian packages with unit files, chosen by size and not
// by taste.
const corpusPackages = `
accountsservice acpid anacron apache2 apparmor at auditd avahi-daemon bind9
bluez bolt certbot chrony cloud-init colord console-setup cron cups-daemon
dbus-user-session dirmngr dmeventd dnsmasq exim4-base fail2ban firewalld gdm3
geoclue-2.0 gnome-keyring gpg-agent haveged hostapd ifupdown irqbalance iwd
keepalived kexec-tools keyboard-configuration knot krb5-kdc
libvirt-daemon-system lightdm lldpd logrotate lvm2 lxcfs man-db mdadm memcached
modemmanager mosquitto mpd multipath-tools netfilter-persistent nfs-common
nfs-kernel-server nftables nginx-common ntpsec open-iscsi openssh-server openvpn
packagekit pcscd pipewire plymouth podman-docker polkitd postgresql-common
powertop qemu-guest-agent quota redis-server rng-tools5 rpcbind rsync rsyslog
rtkit samba slapd smartmontools snmpd spice-vdagent sssd-common
strongswan-starter sysstat systemd-container systemd-homed
systemd-journal-remote systemd-oomd systemd-resolved systemd-timesyncd thermald
tpm2-abrmd tuned udisks2 ufw unbound upower usbmuxd util-linux uuid-runtime
varnish vsftpd watchdog winbind wireguard-tools wireplumber wpasupplicant
xfsprogs`

// fromDebian returns the unit files of a root and its corpus, loaded under
// other names. Templates become instances.
func fromDebian(t *testing.T, root string) []specimen {
	t.Helper()
	var paths []string
	for _, dir := range []string{"usr/lib/systemd/system", "usr/lib/systemd/user", "corpus"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil && dir != "corpus" {
			t.Fatal(err)
		}
	}
	slices.Sort(paths)
	types := []string{"service", "socket", "target", "timer", "path", "slice", "mount", "automount", "swap"}
	var specimens []specimen
	for _, path := range paths {
		name := filepath.Base(path)
		kind := strings.TrimPrefix(filepath.Ext(name), ".")
		if !slices.Contains(types, kind) {
			continue
		}
		text := readFile(t, path)
		if text == "" {
			continue
		}
		unit := fmt.Sprintf("ampoule-d%d", len(specimens))
		file := unit + "." + kind
		if strings.Contains(name, "@.") {
			file = unit + "@." + kind
			unit += "@inst"
		}
		unit += "." + kind
		rel, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		specimens = append(specimens, specimen{unit: unit, about: rel, files: []specimenFile{{file, text}}})
	}
	return specimens
}
