{
  lib,
  buildGoModule,
  makeBinaryWrapper,
  # Programs that ampoule is to find behind those in its PATH: hypervisors, virtiofsd, mkfs.
  runtimeInputs ? [ ],
}:
buildGoModule {
  pname = "ampoule";
  version = lib.head (
    builtins.match ".*const Version = \"([^\"]*)\".*" (builtins.readFile ../internal/version/version.go)
  );

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../Makefile
      ../NEWS.md
      ../README.md
      ../cmd
      ../dist
      ../docs
      ../examples
      ../go.mod
      ../go.sum
      ../guest
      ../internal
      ../scripts/install
    ];
  };
  # Of what `go mod vendor` makes. test/nix says the new one when go.mod has changed.
  vendorHash = "sha256-7sjoGbz+yceuxs8YnNGHlHm44vtnG5BJ7ne0y3qjZK4=";

  nativeBuildInputs = lib.optional (runtimeInputs != [ ]) makeBinaryWrapper;

  # The three programs are linked in different ways, which the Makefile knows.
  buildPhase = ''
    runHook preBuild
    make build BIN=bin
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    BIN=bin PREFIX="$out" sh scripts/install
    runHook postInstall
  '';
  postFixup = lib.optionalString (runtimeInputs != [ ]) ''
    wrapProgram "$out/bin/ampoule" --suffix PATH : ${lib.makeBinPath runtimeInputs}
  '';
  # The tests want root, systemd and QEMU; they run where Ampoule is developed.
  doCheck = false;

  meta = {
    description = "Declarative microVMs whose secrets arrive at boot and are found nowhere else";
    license = lib.licenses.asl20;
    mainProgram = "ampoule";
    platforms = lib.platforms.linux;
  };
}
