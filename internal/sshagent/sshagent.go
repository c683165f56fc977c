// Package sshagent is a key pair that lives as long as one run of a VM, and the
// part of the protocol of ssh's agents by which a client has it sign
// (draft-ietf-sshm-ssh-agent): it lists its one key and signs with it. It takes
// no other keys and gives none away. It counts what it is asked, and tells (Use).
//
// The seed of the key lies in locked memory. What Go's library needs to sign it
// makes of that on the heap, each time anew, and leaves to the garbage collector.
package sshagent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/ampoule-vm/ampoule/internal/secret"
)

// algorithm is the name of the key's type and of its signatures (RFC 8709).
const algorithm = "ssh-ed25519"

// AuthorizedBytes is how long what Authorized returns is.
const AuthorizedBytes = len(algorithm) + 1 + (4+len(algorithm)+4+ed25519.PublicKeySize)/3*4

// Key is a key pair.
type Key struct {
	seed    *secret.Value
	public  []byte // as ssh writes it: the algorithm, then the key
	comment string

	listed, signed atomic.Uint64
}

// NewKey makes a pair. The comment is what a client shows of it.
func NewKey(comment string) (*Key, error) {
	seed, err := secret.ReadFrom(io.LimitReader(rand.Reader, ed25519.SeedSize), ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	k := &Key{seed: seed, comment: comment}
	err = k.use(func(private ed25519.PrivateKey) {
		k.public = text(text(nil, []byte(algorithm)), private.Public().(ed25519.PublicKey))
	})
	if err != nil {
		seed.Wipe()
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return k, nil
}

func (k *Key) use(f func(ed25519.PrivateKey)) error {
	return k.seed.Use(func(seed []byte) error {
		private := ed25519.NewKeyFromSeed(seed)
		defer clear(private)
		f(private)
		return nil
	})
}

// Locked reports whether the seed is never swapped.
func (k *Key) Locked() bool { return k.seed.Locked() }

// Wipe makes the key useless.
func (k *Key) Wipe() { k.seed.Wipe() }

// Authorized is the public half as a line of sshd's authorized_keys, without its
// end.
func (k *Key) Authorized() string {
	return algorithm + " " + base64.StdEncoding.EncodeToString(k.public)
}

// The messages of the protocol.
const (
	failure           = 5
	requestIdentities = 11
	identitiesAnswer  = 12
	signRequest       = 13
	signResponse      = 14
	extension         = 27
	extensionResponse = 29
)

// maxMessage is the largest that is read, in bytes, as with OpenSSH.
const maxMessage = 256 << 10

// Serve answers a client until it goes. The error is nil where it went between two
// messages.
func (k *Key) Serve(client io.ReadWriter) error {
	for {
		var size [4]byte
		if _, err := io.ReadFull(client, size[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 || n > maxMessage {
			return fmt.Errorf("a message of %d bytes", n)
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(client, message); err != nil {
			return err
		}
		if _, err := client.Write(text(nil, k.answer(message))); err != nil {
			return err
		}
	}
}

// answer is what there is to say to a message, without its length.
func (k *Key) answer(message []byte) []byte {
	switch message[0] {
	case requestIdentities:
		k.listed.Add(1)
		list := binary.BigEndian.AppendUint32([]byte{identitiesAnswer}, 1)
		return text(text(list, k.public), []byte(k.comment))
	case signRequest:
		which, rest, ok := cutText(message[1:])
		data, rest, whole := cutText(rest)
		// The flags behind them choose among the signatures of RSA.
		if !ok || !whole || len(rest) != 4 || !bytes.Equal(which, k.public) {
			break
		}
		var signature []byte
		if err := k.use(func(private ed25519.PrivateKey) { signature = ed25519.Sign(private, data) }); err != nil {
			break
		}
		k.signed.Add(1)
		return text([]byte{signResponse}, text(text(nil, []byte(algorithm)), signature))
	case extension:
		if name, rest, ok := cutText(message[1:]); ok && len(rest) == 0 && string(name) == useName {
			out := text([]byte{extensionResponse}, name)
			return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(out, k.listed.Load()), k.signed.Load())
		}
	}
	return []byte{failure}
}

// Use is how often clients have asked a key's agent: for its key, and for signatures.
// ssh asks for one only when the server would take the key.
type Use struct{ Listed, Signed uint64 }

// useName is our extension of the protocol, by which an agent tells of its use.
const useName = "use@ampoule"

// ErrNoUse: the agent is none of ours, or too old.
var ErrNoUse = errors.New("the agent does not tell how it is used")

// UseOf asks an agent of ours for its use.
func UseOf(agent io.ReadWriter) (Use, error) {
	if _, err := agent.Write(text(nil, text([]byte{extension}, []byte(useName)))); err != nil {
		return Use{}, err
	}
	head := text([]byte{extensionResponse}, []byte(useName))
	answer := make([]byte, 4+len(head)+16)
	// One that knows nothing of it answers with less.
	n, err := io.ReadAtLeast(agent, answer, 4+1)
	if err == nil && binary.BigEndian.Uint32(answer) == uint32(len(answer)-4) {
		_, err = io.ReadFull(agent, answer[n:])
	}
	if err != nil {
		return Use{}, err
	}
	body, numbers := answer[4:4+len(head)], answer[4+len(head):]
	if !bytes.Equal(body, head) {
		return Use{}, ErrNoUse
	}
	return Use{Listed: binary.BigEndian.Uint64(numbers), Signed: binary.BigEndian.Uint64(numbers[8:])}, nil
}

// text appends a string as ssh writes it, behind its length (RFC 4251, section 5).
func text(to, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(s))), s...)
}

// cutText takes one off the front.
func cutText(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
