package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
)

// The least guests that the real program can run, as bytes of 64-bit code. The
// stand-in plays the same by its script.

// print writes a text to the serial port.
func print(text string) (code []byte) {
	code = append(code, 0x66, 0xba, 0xf8, 0x03) // mov dx, 0x3f8
	for _, c := range []byte(text) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	return code
}

// reset is by the keyboard controller.
func reset() []byte { return []byte{0xb0, 0xfe, 0xe6, 0x64} } // mov al, 0xfe; out 0x64, al

// tripleFault leaves the processor without a table of interrupts.
func tripleFault() []byte {
	return []byte{0x48, 0x31, 0xc0, 0x50, 0x50, 0x0f, 0x01, 0x1c, 0x24, 0xcc} // xor rax, rax; push rax twice; lidt [rsp]; int3
}

// echoLine reads the port once, as the driver of Linux does at its start, and
// then gives back each byte that comes, up to the end of a line.
func echoLine() []byte {
	return []byte{
		0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, 0x3f8; in al, dx
		0x66, 0xba, 0xfd, 0x03, 0xec, // 1: mov dx, 0x3fd; in al, dx
		0xa8, 0x01, 0x74, 0xf7, // test al, 1; jz 1b
		0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx, 0x3f8; in al, dx; out dx, al
		0x3c, 0x0a, 0x75, 0xed, // cmp al, 10; jne 1b
	}
}

// guestKernel puts code where the kernel begins.
func (v *vmm) guestKernel(parts ...[]byte) string {
	v.t.Helper()
	image := fake.KernelImage()
	at := 4096
	for _, p := range append(parts, []byte{0xfa, 0xf4, 0xeb, 0xfc}) { // cli; hlt; jmp to the front
		at += copy(image[at:], p)
	}
	path := filepath.Join(v.dir, "guest")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// run starts a guest: the real program executes the code, the stand-in plays
// the words.
func (v *vmm) run(words string, code ...[]byte) {
	v.t.Helper()
	v.must("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"boot_args":%q}`, v.guestKernel(code...), words))
	v.must("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

// A reset by the keyboard controller is the one end with exit code 0.
func TestReset(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t), "--level", "Info")
			v.must("PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`)
			v.run("reboot=k fake.guest=say:HELLO,reboot", print("HELLO\r\n"), reset())
			if code := v.ends(); code != 0 || v.errors.Len() > 0 {
				t.Errorf("exit code %d, %s", code, v.errors)
			}
			for _, s := range []string{"HELLO\r\n", "Vmm is stopping.\n", "[anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n"} {
				v.sees(s)
			}
			if _, err := os.Stat(filepath.Join(v.dir, "v")); err != nil {
				t.Error("the socket of the vsock does not stay:", err)
			}
		})
	}
}

// A triple fault is a failure, but not always for the real program: it looks for
// the processor's exit code before the processor has told it (vstate/vcpu.rs,
// Vcpu::exit, and Vmm::process in lib.rs), and takes silence for a success.
func TestTripleFault(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			v.run("reboot=t fake.guest=reboot", tripleFault())
			code, said := v.ends(), v.errors.String()
			if p.real && code == 0 && said == "" {
				t.Log("exit code 0, as after a reset")
				return
			}
			if code != 1 || said != "Error: RunWithApi(MicroVMStoppedWithError(GenericError))\n" {
				t.Errorf("exit code %d, standard error: %s", code, said)
			}
		})
	}
}

// A guest that halts leaves the program where it is.
func TestHalt(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			v.run("fake.guest=say:HELLO,halt", print("HELLO\r\n"))
			v.sees("HELLO\r\n")
			if a := v.must("GET", "/", ""); !v.runs() {
				t.Error("it ended", a.body)
			}
		})
	}
}

// The console takes input from a socket pair once the guest has read the port.
func TestConsoleInput(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			v.run("reboot=k fake.guest=say:READY,echo,reboot", print("READY\r\n"), echoLine(), reset())
			v.sees("READY\r\n")
			if _, err := v.console.Write([]byte("typed\n")); err != nil {
				t.Fatal(err)
			}
			v.sees("typed")
			if code := v.ends(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
