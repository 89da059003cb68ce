// relay: carries connections from listening sockets that it inherits to addresses that it can reach itself.
// The sockets were opened outside of the network namespace that it runs in, so this is the only way into it.
//
//	relay FD=ADDRESS...     for instance 3=127.0.0.1:6443
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

func carry(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if c, ok := from.(*net.TCPConn); ok {
			_ = c.SetLinger(0) // the client sees a reset, as it would see a refusal
		}
		return
	}
	defer to.Close()
	done := make(chan struct{})
	pass := func(a, b net.Conn) {
		_, _ = io.Copy(a, b)
		if c, ok := a.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		done <- struct{}{}
	}
	go pass(to, from)
	go pass(from, to)
	<-done
	<-done
}

func serve(listener net.Listener, address string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go carry(c, address)
	}
}

func main() {
	for _, argument := range os.Args[1:] {
		fd, address, found := strings.Cut(argument, "=")
		number, err := strconv.Atoi(fd)
		if !found || err != nil {
			fmt.Fprintf(os.Stderr, "relay: %q is not FD=ADDRESS\n", argument)
			os.Exit(2)
		}
		listener, err := net.FileListener(os.NewFile(uintptr(number), fd))
		if err != nil {
			fmt.Fprintf(os.Stderr, "relay: file descriptor %d: %v\n", number, err)
			os.Exit(1)
		}
		go serve(listener, address)
	}
	select {}
}
