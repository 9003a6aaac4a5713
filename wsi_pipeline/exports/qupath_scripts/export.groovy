// Writes the objects of every slide of the project as GeoJSON, for `wsi-pipeline import qupath`. QuPath 0.5 to 0.7.
//
//     QuPath script export.groovy         in a terminal, after saving; or drag this file onto QuPath, then Run
//
// Writes corrected/SLIDE.geojson beside this script.

// The folder this script was written into. After moving the folder, put its new place here:
// new File('/new/place/qupath')
File folder = new File(new URI('@FOLDER@'))

import java.awt.image.BufferedImage
import qupath.lib.io.PathIO
import qupath.lib.io.PathIO.GeoJsonExportOptions
import qupath.lib.projects.ProjectIO

File projectFile = new File(folder, 'project/project.qpproj')
if (!projectFile.isFile())
    throw new FileNotFoundException(projectFile.path + ' is not there. Run import.groovy first, or put the folder of ' +
            'this script into its line "File folder"')
def project = ProjectIO.loadProject(projectFile, BufferedImage)
File out = new File(folder, 'corrected')
out.mkdirs()
for (entry in project.getImageList()) {
    def id = entry.respondsTo('getMetadata') ? entry.getMetadata().get('Slide ID') : entry.getMetadataValue('Slide ID')
    if (id == null) {
        println entry.getImageName() + ': left out, it is not of the run'
        continue
    }
    def objects = entry.readHierarchy().getAllObjects(false)
    File file = new File(out, new File(id as String).name + '.geojson')
    PathIO.exportObjectsAsGeoJSON(file, objects, GeoJsonExportOptions.FEATURE_COLLECTION,
            GeoJsonExportOptions.EXCLUDE_MEASUREMENTS)
    println id + ': ' + objects.size() + ' objects to ' + file.path
}
