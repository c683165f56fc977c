package process

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the parent that gets killed.
const helperVariable = "AMPOULE_PROCESS_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) != "" {
		helper()
	}
	os.Exit(m.Run())
}

// helper starts a child that holds descriptor 3, says so, and waits for its
// own death. Churn goes on all the time: threads begin and end.
func helper() {
	lifeline := os.NewFile(3, "lifeline")
	started := make(chan struct{})
	go func() {
		defer close(started)
		p, err := Start(Spec{
			Path: "/bin/sleep", Args: []string{"sleep", "1000"},
			Extra: []*os.File{lifeline},
		})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("started", p.Pid())
	}()
	go func() {
		for {
			churn(10)
		}
	}()
	<-started
	select {}
}

// churn begins and ends n threads: a goroutine that returns while it is locked
// to its thread takes the thread with it.
func churn(n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			runtime.LockOSThread()
			time.Sleep(time.Microsecond)
		})
	}
	wg.Wait()
	runtime.GC()
}

func TestKilledParentLeavesNoChild(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for i := range rounds {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{helperVariable + "=1"}
		cmd.ExtraFiles = []*os.File{w}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if i%2 == 0 {
			// A child that certainly exists.
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "started ") {
				t.Fatalf("helper said %q, %v", line, err)
			}
			time.Sleep(rand.N(5 * time.Millisecond))
		} else {
			// Any moment, that between fork and exec included.
			time.Sleep(rand.N(20 * time.Millisecond))
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, of course
		awaitDeath(t, r)
		r.Close()
	}
}

func TestThreadsComeAndGoButTheChildStays(t *testing.T) {
	var children []*Process
	for range 5 {
		// The goroutine and its thread are gone at once; the child must not care.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			children = append(children, start(t, Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}))
		}()
		<-done
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		churn(50)
	}
	for _, p := range children {
		select {
		case <-p.Done():
			exit, _ := p.Wait()
			t.Errorf("process %d: %v", p.Pid(), exit)
		default:
		}
	}
}

// TestThreadDeathKillsANaiveChild shows that the test above can fail: without
// a thread of its own, the same churn does kill a child.
func TestThreadDeathKillsANaiveChild(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends. Keep it busy while another does it.
			other := make(chan error)
			go func() {
				runtime.LockOSThread()
				other <- cmd.Start()
			}()
			started <- <-other
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	select {
	case <-ended:
		if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
			t.Errorf("ended by %v", cmd.ProcessState)
		}
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("survived the death of its thread: the kernel rule behind this package has changed")
	}
}
