package cloudhypervisor

import "github.com/ampoule-vm/ampoule/internal/driver"

// arguments are those that HypervisorArgs= may pass, and those with a reason
// against it.
func arguments() []driver.Argument {
	const log = "it writes the VM's configuration to its log, the credentials included"
	return []driver.Argument{
		{Name: "--seccomp", Value: true},
		{Name: "--log-file", Value: true},
		{Name: "-v", Refused: log, Use: "remove it"},
		{Name: "-vv", Refused: log, Use: "remove it"},
		{Name: "-vvv", Refused: log, Use: "remove it"},
		{Name: "--api-socket", Refused: "whoever can reach the API can read the credentials", Use: "remove it"},
		{Name: "--event-monitor", Refused: "this is where Ampoule hears of the guest", Use: "remove it"},
		{Name: "--restore", Refused: "the guest's memory would come from elsewhere, with other credentials in it", Use: "remove it"},
		{Name: "--no-shutdown", Refused: "Ampoule decides what follows a power-off", Use: "remove it"},
		{Name: "--kernel", Refused: "this is what Kernel= sets", Use: "use Kernel="},
		{Name: "--initramfs", Refused: "this is what Initrd= sets", Use: "use Initrd="},
		{Name: "--cmdline", Refused: "this is what KernelCommandLine= sets", Use: "use KernelCommandLine="},
		{Name: "--cpus", Refused: "this is what VCPU= sets", Use: "use VCPU="},
		{Name: "--memory", Refused: "this is what Memory= sets", Use: "use Memory="},
		{Name: "--disk", Refused: "this is what Disk= sets", Use: "use Disk="},
		{Name: "--net", Refused: "this is what Network= sets", Use: "use Network="},
		{Name: "--fs", Refused: "this is what Share= sets", Use: "use Share="},
		{Name: "--vsock", Refused: "this is what VSockCID= sets", Use: "use VSockCID="},
		{Name: "--platform", Refused: "this table carries the credentials", Use: "use LoadCredential= or SetCredential="},
		{Name: "--serial", Refused: "this is what Console= sets", Use: "use Console="},
		{Name: "--console", Refused: "this is what Console= sets", Use: "use Console="},
	}
}
