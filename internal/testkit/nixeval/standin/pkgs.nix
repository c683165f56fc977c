# Stands for the packages that the modules name. What is built here is built by /bin/sh, and
# a package is a directory with a file for each program.
{ lib }:
let
  shell =
    name: environment: command:
    let
      self = derivation (
        environment
        // {
          inherit name command;
          system = builtins.currentSystem;
          builder = "/bin/sh";
          args = [
            "-euc"
            ". \"$commandPath\""
          ];
          passAsFile = [ "command" ] ++ environment.passAsFile or [ ];
          PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
        }
      );
    in
    self;
  package =
    name: programs:
    shell name { } (
      "mkdir -p $out/bin\n"
      + lib.concatMapStrings (p: "ln -s \"$(command -v ${p} || echo /usr/bin/${p})\" $out/bin/${p}\n") programs
    )
    // {
      override = _: package name programs;
    };
  write =
    name: mode: text:
    shell name
      {
        inherit text;
        passAsFile = [ "text" ];
      }
      ''
        cp "$textPath" $out
        chmod ${mode} $out
      '';
in
rec {
  inherit lib;
  system = builtins.currentSystem;
  path = ./nixpkgs;
  runtimeShell = "/bin/sh";
  runCommand = shell;
  writeShellScript = name: text: write name "555" "#!${runtimeShell}\n${text}";
  writeText = name: text: write name "444" text;
  coreutils = package "coreutils-9.10" [
    "mv"
    "readlink"
    "rm"
    "touch"
    "true"
    "truncate"
  ];
  qemu_kvm = package "qemu-host-cpu-only-10.2.2" [ "qemu-system-x86_64" ];
  virtiofsd = package "virtiofsd-1.13.3" [ "virtiofsd" ];
  cloud-hypervisor = package "cloud-hypervisor-52.0" [ "cloud-hypervisor" ];
  e2fsprogs = package "e2fsprogs-1.47.3" [ "chattr" "mkfs.ext4" ];
  systemd = package "systemd-259.3" [ "systemctl" ] // {
    version = "259.3";
  };
}
