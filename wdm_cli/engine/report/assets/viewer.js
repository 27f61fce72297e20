// Opens the page's volumes in niivue. Without JavaScript or WebGL 2 the page keeps its thumbnails.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const panel = byId("viewer"), say = byId("viewer-says"), title = byId("viewer-title");
  const entries = [...document.querySelectorAll("[data-volume]")];
  if (!panel || !entries.length) return;
  let loading = null, shown = -1;

  async function unzipped(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL 2");
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unzipped("niivue"));
    document.head.append(script);
    const viewer = new niivue.Niivue({
      backColor: [0.06, 0.07, 0.09, 1], multiplanarLayout: 2, multiplanarShowRender: 1, crosshairColor: [0.85, 0.51, 0.17, 0.8],
      isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, show3Dcrosshair: true, logLevel: "error",
      onLocationChange: (place) => { byId("viewer-value").textContent = place.string; },
    });
    await viewer.attachToCanvas(byId("viewer-canvas"));
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    return viewer;
  }

  function setWindow(viewer, low, high) {
    viewer.volumes[0].cal_min = low;
    viewer.volumes[0].cal_max = high;
    viewer.updateGLVolume();
  }

  async function open(index) {
    shown = (index + entries.length) % entries.length;
    const entry = entries[shown];
    panel.hidden = false;
    title.textContent = entry.dataset.name;
    say.textContent = "opening …";
    try {
      loading = loading || start();
      const viewer = await loading;
      while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
      await viewer.loadFromArrayBuffer(await unzipped(entry.dataset.volume), "volume.nii");
      viewer.setCrosshairWidth(Math.max(...viewer.volumes[0].dimsRAS.slice(1, 4)) / 300);  // counted in voxels
      const first = document.querySelector("[data-low]");
      setWindow(viewer, Number(first.dataset.low), Number(first.dataset.high));
      say.textContent = "click or drag: move the crosshair; wheel: slices; right button: contrast; arrow keys: next volume";
      panel.dataset.shown = entry.dataset.volume;
    } catch (error) {
      loading = null;
      say.textContent = `The viewer cannot start (${error.message}). The thumbnails show the middle planes.`;
      panel.dataset.failed = "yes";
    }
    panel.scrollIntoView({ block: "nearest" });
  }

  entries.forEach((entry, index) => {
    entry.classList.add("opens");
    entry.tabIndex = 0;
    entry.setAttribute("role", "button");
    entry.setAttribute("aria-label", `open ${entry.dataset.name} in the viewer`);
    entry.addEventListener("click", () => open(index));
    entry.addEventListener("keydown", (event) => { if (event.key === "Enter") open(index); });
  });
  document.querySelectorAll("[data-low]").forEach((button) => button.addEventListener("click", async () => {
    if (loading) setWindow(await loading, Number(button.dataset.low), Number(button.dataset.high));
  }));
  byId("viewer-back").addEventListener("click", () => open(shown - 1));
  byId("viewer-next").addEventListener("click", () => open(shown + 1));
  byId("viewer-close").addEventListener("click", () => { panel.hidden = true; });
  document.addEventListener("keydown", (event) => {
    if (panel.hidden) return;
    if (event.key === "ArrowRight") open(shown + 1);
    if (event.key === "ArrowLeft") open(shown - 1);
    if (event.key === "Escape") panel.hidden = true;
  });
})();
