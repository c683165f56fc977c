package run

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ampoule-vm/ampoule/internal/sshagent"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// agent hands nobody the key of this start, and signs with it for whoever may
// connect with its socket: the VM's user and root. The key is the same after a
// reboot of the guest.
type agent struct {
	key      *sshagent.Key
	listener net.Listener
	mu       sync.Mutex
	clients  map[net.Conn]bool // nil: it has ended
	done     sync.WaitGroup
}

// openAgent makes the key that the guest is to take, where it is to take one.
func (g *guest) openAgent(e *links) error {
	if !g.Plan.VM.MakesKey() {
		return nil
	}
	path, err := g.runtimePath(state.AgentName)
	if err != nil {
		return err
	}
	key, err := sshagent.NewKey(g.Plan.VM.Name + " (of this start, by ampoule)")
	if err != nil {
		return err
	}
	listener, err := listenAt(g.dirs.Runtime, state.AgentName)
	if err != nil {
		key.Wipe()
		return err
	}
	a := &agent{key: key, listener: listener, clients: map[net.Conn]bool{}}
	a.done.Go(a.accept)
	e.closers, e.removed = append(e.closers, a), append(e.removed, path)
	e.agent, g.record.SSHAgent = a, path
	return nil
}

// acceptAgain is when it is tried again to take a client: most likely we were out of
// descriptors. Else ssh would wait for ever for a socket that nobody listens at.
const acceptAgain = 100 * time.Millisecond

func (a *agent) accept() {
	for {
		client, err := a.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptAgain)
			continue
		}
		if !a.began(client) {
			client.Close()
			return
		}
		a.done.Go(func() {
			// What a client does wrong ends its connection, and nothing else.
			_ = a.key.Serve(client)
			client.Close()
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.clients, client)
		})
	}
}

func (a *agent) began(client net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients == nil {
		return false
	}
	a.clients[client] = true
	return true
}

// Close ends the agent and wipes the key.
func (a *agent) Close() error {
	a.key.Wipe()
	err := a.listener.Close()
	a.mu.Lock()
	for client := range a.clients {
		client.Close()
	}
	a.clients = nil
	a.mu.Unlock()
	a.done.Wait()
	return err
}

// authorized is the public half of the key; empty where there is none.
func (a *agent) authorized() string {
	if a == nil {
		return ""
	}
	return a.key.Authorized()
}

// keyRoom is as long as any.
func keyRoom() string { return strings.Repeat("k", sshagent.AuthorizedBytes) }

// ErrAgentGone: the guest was given a key, and the agent that has it is not there.
var ErrAgentGone = errors.New("the agent with its key is gone")

// SSHAgent is the path of the agent with the key that the guest of a VM that runs
// was given; empty where it was given none. What the VM's user may have put in its
// place, a link to another agent say, is refused.
func SSHAgent(i state.Instance) (path string, err error) {
	if i.Record == nil || i.Record.SSHAgent == "" {
		return "", nil
	}
	conn, err := dialAgent(i)
	if err != nil {
		return "", err
	}
	conn.Close()
	return filepath.Join(i.Dir, state.AgentName), nil
}

// AgentUse is how often that agent was asked.
func AgentUse(i state.Instance) (sshagent.Use, error) {
	conn, err := dialAgent(i)
	if err != nil {
		return sshagent.Use{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentTime)); err != nil {
		return sshagent.Use{}, err
	}
	return sshagent.UseOf(conn)
}

// agentTime is how long an agent may take to answer.
const agentTime = 5 * time.Second

func dialAgent(i state.Instance) (net.Conn, error) {
	s, err := holdSocket(i, state.AgentName)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAgentGone, err)
	}
	defer s.close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.name(), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAgentGone, err)
	}
	if err := s.checkPeer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
