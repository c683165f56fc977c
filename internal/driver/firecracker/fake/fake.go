package fake

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Version is the one that the stand-in says it is.
const Version = "1.16.1"

// Exit codes that the real program has (FcExitCode in vmm/src/lib.rs).
const (
	ExitOK           = 0
	ExitGeneric      = 1
	ExitBadConfig    = 152
	ExitBadArguments = 153
	ExitHangup       = 156
	// ExitAbort stands for the death by SIGABRT that a panic of the real
	// program is.
	ExitAbort = 134
	// ExitUnplayed is the stand-in's own: it was asked for what it cannot play.
	ExitUnplayed = 70
)

// process is one run of the program.
type process struct {
	opts    options
	log     *logger
	console *console
	stderr  io.Writer
	setup   setup
	limit   int // bytes of a request's body

	// mu is held while a request is answered: the real program has one thread
	// for the API.
	mu  sync.Mutex
	vm  resources
	run *guest // nil before InstanceStart

	exit chan outcome
}

// outcome is how the program ends.
type outcome struct {
	code int
	// mute: without a word, as by a signal.
	mute bool
}

// end ends the program; the first call counts.
func (p *process) end(o outcome) {
	select {
	case p.exit <- o:
	default:
	}
}

// Main is the program: args are its arguments with its name in front. It
// returns the exit code.
func Main(args []string, stdin, stdout, stderr *os.File) int {
	p := &process{console: newConsole(stdin, stdout), stderr: stderr, exit: make(chan outcome, 1)}
	p.log = &logger{out: p.console, max: levelInfo, instance: "anonymous-instance"}
	var err error
	if p.setup, err = readSetup(args); err != nil {
		p.unplayed(err.Error())
		return ExitUnplayed
	}
	if p.opts, err = parseArguments(args[1:]); err != nil {
		debug := err.Error()
		if a := (*argumentError)(nil); errors.As(err, &a) {
			debug = a.debug
		}
		return p.fail(ExitBadArguments, fmt.Sprintf(`Arguments parsing error: %v \n\nFor more information try --help.`, err), "ParseArguments("+debug+")")
	}
	if name := p.opts.unplayed(); name != "" {
		p.unplayed("--" + name)
		return ExitUnplayed
	}
	if p.opts.has("version") {
		fmt.Fprintf(p.console, "Firecracker v%s\n\n", Version)
		p.succeed()
		return ExitOK
	}
	if code, ok := p.configure(); !ok {
		return code
	}
	return p.serve()
}

func (p *process) succeed() {
	p.log.say(levelInfo, inMain, "Firecracker exiting successfully. exit_code=0")
}

// fail says why it ends: in the log, and on standard error at any level.
func (p *process) fail(code int, sentence, debug string) int {
	p.log.say(levelError, inMain, "%s", sentence)
	fmt.Fprintf(p.stderr, "Error: %s\n", debug)
	p.log.say(levelError, inMain, "Firecracker exiting with error. exit_code=%d", code)
	return code
}

// panics says why, in the log alone; the exit code is [ExitAbort].
func (p *process) panics(what string) {
	p.log.say(levelError, inMain, "Firecracker panicked: %s", what)
}

func (p *process) unplayed(what string) {
	fmt.Fprintf(p.stderr, "stand-in for firecracker: cannot play %s\n", what)
}

// configure takes the arguments in the order of main.rs.
func (p *process) configure() (code int, ok bool) {
	id := p.opts.get("id", "anonymous-instance")
	if !validInstance(id) {
		p.panics("Invalid instance ID")
		return ExitAbort, false
	}
	p.log.instance = id
	s := settings{path: p.opts.optional("log-path"), module: p.opts.optional("module")}
	if word := p.opts.optional("level"); word != nil {
		l, known := parseLevel(*word)
		if !known {
			return p.fail(ExitBadConfig, "Invalid value for logger level: Failed to parse string to level filter: "+*word+".Possible values: [Error, Warning, Info, Debug]",
				"InvalidLogLevel(LevelFilterFromStrError("+strconv.Quote(*word)+"))"), false
		}
		s.level = &l
	}
	if show := p.opts.has("show-level"); show {
		s.showLevel = &show
	}
	if err := p.log.update(s); err != nil {
		return p.fail(ExitGeneric, "Could not initialize logger: Failed to open target file: "+osError(err), "LoggerInitialization(LoggerUpdateError("+osDebug(err)+"))"), false
	}
	p.log.say(levelInfo, inMain, "Running Firecracker v%s", Version)
	if path := p.opts.optional("metrics-path"); path != nil {
		f, err := openOutput(*path)
		if err != nil {
			return p.fail(ExitGeneric, "Could not initialize metrics: Cannot initialize the metrics system due to bad user input: "+osError(err), "MetricsInitialization("+strconv.Quote(osError(err))+")"), false
		}
		p.vm.metrics = f
	}
	for _, name := range []string{"http-api-max-payload-size", "mmds-size-limit", "start-time-us", "start-time-cpu-us", "parent-cpu-time-us"} {
		n, err := strconv.ParseUint(strings.TrimPrefix(p.opts.get(name, "51200"), "+"), 10, 64)
		if err != nil {
			p.panics("'" + name + "' parameter expected to be a number")
			return ExitAbort, false
		}
		if name == "http-api-max-payload-size" {
			p.limit = int(min(n, 1<<31))
		}
	}
	p.vm.machine = machine{vcpus: 1, mem: 128, hugePages: "None"}
	p.vm.pci = p.opts.has("enable-pci")
	return 0, true
}

// serve answers requests until the guest or a mishap ends it.
func (p *process) serve() int {
	if t := p.setup.at("start"); t != nil {
		time.Sleep(t.Wait)
		if t.Do == doDie {
			return t.Code
		}
	}
	path := p.opts.get("api-sock", "/run/firecracker.socket")
	listener, err := listenUnix(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		return p.fail(ExitGeneric, "RunWithApiError error: Failed to open the API socket at: "+path+". Check that it is not already used.",
			"RunWithApi(FailedToBindSocket("+strconv.Quote(path)+"))")
	}
	if err != nil {
		return p.fail(ExitGeneric, "RunWithApiError error: Failed to bind and run the HTTP server: IO error: "+osError(err),
			"RunWithApi(FailedToBindAndRunHttpServer(IOError("+osDebug(err)+")))")
	}
	p.log.say(levelInfo, inAdapter, "Listening on API socket (%s).", strconv.Quote(path))
	server := &server{p: p, listener: listener}
	go server.accept()
	p.log.say(levelInfo, inAPI, "API server started.")
	o := <-p.exit
	if o.mute {
		return o.code
	}
	// The answer to a request that is being served still goes out.
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = listener.Close()
	if o.code != ExitOK {
		return p.fail(o.code, "RunWithApiError error: MicroVM stopped with an error: "+codeName(o.code), "RunWithApi(MicroVMStoppedWithError("+codeName(o.code)+"))")
	}
	p.succeed()
	return ExitOK
}

func codeName(code int) string {
	if code == ExitGeneric {
		return "GenericError"
	}
	return "UnexpectedError"
}

// osError is an error of the system in the words of Rust.
func osError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(s[:1]), s[1:], int(errno))
}

// osDebug is the same as it stands on standard error.
func osDebug(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return "Error { kind: InvalidInput, message: " + strconv.Quote(err.Error()) + " }"
	}
	s := errno.Error()
	return fmt.Sprintf("Os { code: %d, message: %q }", int(errno), strings.ToUpper(s[:1])+s[1:])
}
