package firecracker

import "github.com/ampoule-vm/ampoule/internal/driver"

// arguments are those that HypervisorArgs= may pass, and those with a reason
// against it.
func arguments() []driver.Argument {
	const log = "from level Info on it writes the VM's configuration to its log"
	return []driver.Argument{
		{Name: "--id", Value: true},
		{Name: "--seccomp-filter", Value: true},
		{Name: "--no-seccomp"},
		{Name: "--enable-pci"},
		{Name: "--boot-timer"},
		{Name: "--metrics-path", Value: true},
		{Name: "--level", Refused: log, Use: "remove it"},
		{Name: "--log-path", Refused: log, Use: "remove it"},
		{Name: "--api-sock", Refused: "whoever can reach the API can read the VM's configuration and the guest", Use: "remove it"},
		{Name: "--no-api", Refused: "Ampoule hands the VM over by the API", Use: "remove it"},
		{Name: "--config-file", Refused: "a file could set what keys of the .microvm file set, unseen", Use: "use the keys"},
		{Name: "--metadata", Refused: "every process in the guest that has the network can read it", Use: "use LoadCredential= or SetCredential="},
	}
}
